package source_test

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

// shop describes the service that upstreams under test offer. What Orders.Any
// wraps is in a file that the service's does not import.
const shop = `
name: "shop/orders.proto" package: "shop" syntax: "proto3"
dependency: "google/protobuf/struct.proto" dependency: "google/protobuf/any.proto" dependency: "shop/order.proto"
service {
  name: "Orders"
  method { name: "Free" input_type: ".google.protobuf.Struct" output_type: ".google.protobuf.Struct" }
  method { name: "Get" input_type: ".shop.Order" output_type: ".shop.Order" }
  method { name: "Any" input_type: ".shop.Order" output_type: ".google.protobuf.Any" }
  method { name: "Watch" input_type: ".shop.Order" output_type: ".shop.Order" server_streaming: true }
}`

const order = `
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

const extra = `
name: "shop/extra.proto" package: "shop" syntax: "proto3"
message_type { name: "Extra" field { name: "note" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }`

func parseFile(t testing.TB, text string) *descriptorpb.FileDescriptorProto {
	t.Helper()
	f := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(text), f); err != nil {
		t.Fatal(err)
	}
	return f
}

// described links files with those of protobuf itself.
func described(t testing.TB, texts ...string) *protoregistry.Files {
	t.Helper()
	set := new(descriptorpb.FileDescriptorSet)
	for _, name := range []string{"google/protobuf/struct.proto", "google/protobuf/any.proto", "google/protobuf/timestamp.proto"} {
		f, err := protoregistry.GlobalFiles.FindFileByPath(name)
		if err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	for _, text := range texts {
		set.File = append(set.File, parseFile(t, text))
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// grpcServer is a grpc-go server whose methods a test decides.
type grpcServer struct {
	t       testing.TB
	files   *protoregistry.Files
	handler func(ctx context.Context, method string, in *dynamicpb.Message) (proto.Message, error)
	options []grpc.ServerOption
	v1      bool // reflection
	alpha   bool

	addr      string
	conns     atomic.Int64
	reflected atomic.Int64
	server    *grpc.Server
	serving   sync.WaitGroup
}

// newGRPC starts a server with both reflections; change may change it before.
func newGRPC(t testing.TB, handler func(ctx context.Context, method string, in *dynamicpb.Message) (proto.Message, error), change ...func(*grpcServer)) *grpcServer {
	t.Helper()
	s := &grpcServer{t: t, files: described(t, order, shop, extra), handler: handler, v1: true, alpha: true, addr: "127.0.0.1:0"}
	for _, f := range change {
		f(s)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *grpcServer) url() string { return "grpc://" + s.addr }

// start listens at the address it had before, if any.
func (s *grpcServer) start() {
	s.t.Helper()
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.server = grpc.NewServer(append(s.options,
		grpc.UnknownServiceHandler(s.handle),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if info.IsClientStream && info.FullMethod != "" && srv != nil {
				s.reflected.Add(1)
			}
			return next(srv, stream)
		}))...)
	o := reflection.ServerOptions{Services: s, DescriptorResolver: s.files}
	if s.v1 {
		reflectv1.RegisterServerReflectionServer(s.server, reflection.NewServerV1(o))
	}
	if s.alpha {
		reflectv1alpha.RegisterServerReflectionServer(s.server, reflection.NewServer(o))
	}
	s.serving.Go(func() { _ = s.server.Serve(&countingListener{ln, &s.conns}) })
}

func (s *grpcServer) stop() {
	s.server.Stop()
	s.serving.Wait()
}

// GetServiceInfo is what reflection lists.
func (s *grpcServer) GetServiceInfo() map[string]grpc.ServiceInfo {
	return map[string]grpc.ServiceInfo{"shop.Orders": {}}
}

// handle is every method but those of reflection.
func (s *grpcServer) handle(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	d, err := s.files.FindDescriptorByName(protoreflect.FullName("shop.Orders"))
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

// meta is a value of the call's metadata.
func meta(ctx context.Context, name string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

func secured(creds credentials.TransportCredentials) func(*grpcServer) {
	return func(s *grpcServer) { s.options = append(s.options, grpc.Creds(creds)) }
}
