// Package grpctest is a real gRPC server for tests of the driver grpc.
package grpctest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
)

// Shop describes the service that servers offer. The message that Orders.Any wraps
// is in a file that the service's file does not import (Extra).
const Shop = `
name: "shop/orders.proto" package: "shop" syntax: "proto3"
dependency: "google/protobuf/struct.proto" dependency: "google/protobuf/any.proto" dependency: "shop/order.proto"
service {
  name: "Orders"
  method { name: "Free" input_type: ".google.protobuf.Struct" output_type: ".google.protobuf.Struct" }
  method { name: "Get" input_type: ".shop.Order" output_type: ".shop.Order" }
  method { name: "Any" input_type: ".shop.Order" output_type: ".google.protobuf.Any" }
  method { name: "Watch" input_type: ".shop.Order" output_type: ".shop.Order" server_streaming: true }
}`

// Order describes the messages of Shop.
const Order = `
name: "shop/order.proto" package: "shop" syntax: "proto3"
dependency: "google/protobuf/timestamp.proto"
enum_type { name: "State" value { name: "OPEN" number: 0 } value { name: "PAID" number: 1 } }
message_type {
  name: "Order"
  field { name: "count" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "total_cents" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL json_name: "totalCents" }
  field { name: "state" number: 3 type: TYPE_ENUM type_name: ".shop.State" label: LABEL_OPTIONAL }
  field { name: "at" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
  field { name: "tags" number: 5 type: TYPE_STRING label: LABEL_REPEATED }
}`

// Extra describes the message that Orders.Any wraps.
const Extra = `
name: "shop/extra.proto" package: "shop" syntax: "proto3"
message_type { name: "Extra" field { name: "note" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }`

// ParseFile reads a file's description.
func ParseFile(t testing.TB, text string) *descriptorpb.FileDescriptorProto {
	t.Helper()
	f := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(text), f); err != nil {
		t.Fatal(err)
	}
	return f
}

// Link links files with those of protobuf itself.
func Link(t testing.TB, texts ...string) *protoregistry.Files {
	t.Helper()
	set := new(descriptorpb.FileDescriptorSet)
	for _, name := range []string{"google/protobuf/struct.proto", "google/protobuf/any.proto",
		"google/protobuf/timestamp.proto"} {
		f, err := protoregistry.GlobalFiles.FindFileByPath(name)
		if err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	for _, text := range texts {
		set.File = append(set.File, ParseFile(t, text))
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Server is a grpc-go server whose methods a test decides.
type Server struct {
	Addr      string
	Files     *protoregistry.Files // its services and messages
	V1, Alpha bool                 // the versions of reflection that it offers
	Options   []grpc.ServerOption
	GRPC      *grpc.Server // since the last Start
	Conns     atomic.Int64 // connections so far
	Reflected atomic.Int64 // calls of reflection so far

	t       testing.TB
	handler Handler
	serving sync.WaitGroup
}

// Handler answers a method of the service Orders.
type Handler func(ctx context.Context, method string, in *dynamicpb.Message) (proto.Message, error)

// New starts a server with both versions of reflection. change may change it
// before its start.
func New(t testing.TB, handler Handler, change ...func(*Server)) *Server {
	t.Helper()
	s := &Server{t: t, Files: Link(t, Order, Shop, Extra), handler: handler, V1: true, Alpha: true, Addr: "127.0.0.1:0"}
	for _, f := range change {
		f(s)
	}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// URL is that of an endpoint.
func (s *Server) URL() string { return "grpc://" + s.Addr }

// Start listens, after a Stop at the same address.
func (s *Server) Start() {
	s.t.Helper()
	ln, err := net.Listen("tcp", s.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Addr = ln.Addr().String()
	s.GRPC = grpc.NewServer(append(s.Options,
		grpc.UnknownServiceHandler(s.handle),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo,
			next grpc.StreamHandler) error {
			if info.IsClientStream && info.FullMethod != "" && srv != nil {
				s.Reflected.Add(1)
			}
			return next(srv, stream)
		}))...)
	o := reflection.ServerOptions{Services: s, DescriptorResolver: s.Files}
	if s.V1 {
		reflectv1.RegisterServerReflectionServer(s.GRPC, reflection.NewServerV1(o))
	}
	if s.Alpha {
		reflectv1alpha.RegisterServerReflectionServer(s.GRPC, reflection.NewServer(o))
	}
	s.serving.Go(func() { _ = s.GRPC.Serve(&countingListener{ln, &s.Conns}) })
}

// Stop closes all connections.
func (s *Server) Stop() {
	s.GRPC.Stop()
	s.serving.Wait()
}

// GetServiceInfo is what reflection lists.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo {
	return map[string]grpc.ServiceInfo{"shop.Orders": {}}
}

// handle answers every method but those of reflection.
func (s *Server) handle(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	d, err := s.Files.FindDescriptorByName(protoreflect.FullName("shop.Orders"))
	if err != nil {
		return err
	}
	name := path[len("/shop.Orders/"):]
	m := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	if path[:len("/shop.Orders/")] != "/shop.Orders/" || m == nil {
		return status.Error(codes.Unimplemented, "unknown method "+path)
	}
	in := dynamicpb.NewMessage(m.Input())
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	out, err := s.handler(stream.Context(), name, in)
	if err != nil {
		return err
	}
	return stream.SendMsg(out)
}

type countingListener struct {
	net.Listener
	n *atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// Meta returns a value of the call's metadata.
func Meta(ctx context.Context, name string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Secured makes New start a server over TLS.
func Secured(creds credentials.TransportCredentials) func(*Server) {
	return func(s *Server) { s.Options = append(s.Options, grpc.Creds(creds)) }
}
