package grpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/pollcast/pollcast/services/poller/source"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// This file describes the methods of a gRPC upstream and their messages.

const (
	// maxDescriptors bounds a description, in bytes.
	maxDescriptors = 32 << 20
	// maxDescribed bounds the methods, and the types in google.protobuf.Any, that
	// are remembered for one upstream. At the bound they are forgotten and asked
	// for again.
	maxDescribed = 2000
)

// descriptors are the descriptions of types and services.
type descriptors struct {
	files *protoregistry.Files
	types *dynamicpb.Types
}

// method is a method that can be called.
type method struct {
	path string // "/package.Service/Method"
	desc protoreflect.MethodDescriptor
	*descriptors
	client *connect.Client[rawMessage, rawMessage]
	made   int64 // Client.Made when it was described
}

// schema remembers what an upstream's reflection answered. It is valid for one
// connection: the next one may lead to another version of the upstream.
type schema struct {
	fixed *descriptors  // from a file, instead of the fields below
	token chan struct{} // holds a token while no call asks the upstream

	mu      sync.Mutex
	methods map[string]*method
	anys    map[protoreflect.FullName]protoreflect.MessageType
	anysAt  int64  // Client.Made when these were described
	version string // of the reflection protocol; "" if not known
}

func newSchema() *schema {
	s := &schema{token: make(chan struct{}, 1)}
	s.token <- struct{}{}
	return s
}

// forget makes the next call ask for the method again.
func (s *schema) forget(m *method) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.methods[m.path] == m && s.fixed == nil {
		delete(s.methods, m.path)
	}
}

// known returns a method that was described over the present connection, or nil.
func (g *upstream) known(path string) *method {
	g.schema.mu.Lock()
	defer g.schema.mu.Unlock()
	m := g.schema.methods[path]
	if m == nil || g.schema.fixed == nil && m.made != g.Made() {
		return nil
	}
	return m
}

// method returns the description of a method. One call at a time asks the
// upstream. The others wait for it as long as they may.
func (g *upstream) method(ctx context.Context, service, name string, start time.Time) (*method, error) {
	path := "/" + service + "/" + name
	if m := g.known(path); m != nil {
		return m, nil
	}
	s := g.schema
	select {
	case <-s.token:
		defer func() { s.token <- struct{}{} }()
	case <-ctx.Done():
		return nil, g.failure(ctx, ctx.Err(), start)
	}
	if m := g.known(path); m != nil {
		return m, nil
	}
	set := s.fixed
	if set == nil {
		var err error
		if set, err = g.reflect(ctx, service, start); err != nil {
			return nil, err
		}
	}
	desc, f := set.method(service, name)
	if f != nil {
		return nil, f
	}
	m := &method{path: path, desc: desc, descriptors: set, client: g.to(path, g.MaxAnswer), made: g.Made()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.methods == nil || len(s.methods) >= maxDescribed {
		s.methods = map[string]*method{}
	}
	s.methods[path] = m
	return m, nil
}

// method returns a unary method, or why there is none.
func (d *descriptors) method(service, name string) (protoreflect.MethodDescriptor, *source.Failure) {
	found, err := d.files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, source.Rejected("there is no service " + service)
	}
	s, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, source.Rejected(service + " is no service")
	}
	m := s.Methods().ByName(protoreflect.Name(name))
	switch {
	case m == nil:
		return nil, source.Rejected("service " + service + " has no method " + name)
	case m.IsStreamingClient(), m.IsStreamingServer():
		return nil, source.Rejected("method " + name + " streams; only unary methods can be polled")
	}
	return m, nil
}

// readDescriptors reads a file of a google.protobuf.FileDescriptorSet.
func readDescriptors(name string) (*descriptors, error) {
	data, err := source.ReadFile(name, maxDescriptors)
	if err != nil {
		return nil, err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil || len(set.GetFile()) == 0 {
		return nil, fmt.Errorf("%s: it is no descriptor set", name)
	}
	d, err := newDescriptors(set.GetFile(), false)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", name, protoText(err))
	}
	return d, nil
}

// newDescriptors links files. Files of protobuf itself are added if they are
// missing. partial allows other files to be missing.
func newDescriptors(files []*descriptorpb.FileDescriptorProto, partial bool) (*descriptors, error) {
	have := map[string]bool{}
	for _, f := range files {
		have[f.GetName()] = true
	}
	for i := 0; i < len(files); i++ {
		for _, dep := range files[i].GetDependency() {
			if have[dep] || !strings.HasPrefix(dep, "google/protobuf/") {
				continue
			}
			if f, err := protoregistry.GlobalFiles.FindFileByPath(dep); err == nil {
				have[dep] = true
				files = append(files, protodesc.ToFileDescriptorProto(f))
			}
		}
	}
	set := &descriptorpb.FileDescriptorSet{File: files}
	linked, err := protodesc.FileOptions{AllowUnresolvable: partial}.NewFiles(set)
	if err != nil {
		return nil, err
	}
	return &descriptors{files: linked, types: dynamicpb.NewTypes(linked)}, nil
}

// resolver finds the types in a google.protobuf.Any while an answer is written as
// JSON.
type resolver interface {
	protoregistry.MessageTypeResolver
	protoregistry.ExtensionTypeResolver
	err() error // why the upstream could not be asked; nil if it could
}

type anyResolver struct {
	*dynamicpb.Types
	ctx    context.Context // the call's; a resolver serves one call
	g      *upstream
	start  time.Time
	failed error
}

func (g *upstream) resolver(ctx context.Context, m *method, start time.Time) resolver {
	return &anyResolver{Types: m.types, ctx: ctx, g: g, start: start}
}

func (r *anyResolver) err() error { return r.failed }

func (r *anyResolver) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if t, err := r.Types.FindMessageByURL(url); err == nil {
		return t, nil
	}
	if t, err := protoregistry.GlobalTypes.FindMessageByURL(url); err == nil &&
		strings.HasPrefix(string(t.Descriptor().FullName()), "google.protobuf.") {
		return t, nil
	}
	name := protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:])
	s := r.g.schema
	made := r.g.Made()
	s.mu.Lock()
	if s.anysAt != made { // the upstream may be another version
		s.anys, s.anysAt = nil, made
	}
	t := s.anys[name]
	s.mu.Unlock()
	if t != nil {
		return t, nil
	}
	if s.fixed != nil || !name.IsValid() {
		return nil, protoregistry.NotFound
	}
	set, err := r.g.reflect(r.ctx, string(name), r.start)
	if err != nil {
		if f, ok := errors.AsType[*source.Failure](err); !ok || f.Counts {
			r.failed = err
		}
		return nil, protoregistry.NotFound
	}
	if t, err = set.types.FindMessageByName(name); err != nil {
		return nil, protoregistry.NotFound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.anysAt != made {
		return t, nil
	}
	if s.anys == nil || len(s.anys) >= maxDescribed {
		s.anys = map[protoreflect.FullName]protoreflect.MessageType{}
	}
	s.anys[name] = t
	return t, nil
}
