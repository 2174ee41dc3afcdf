package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// The driver grpc: unary calls of gRPC (https://grpc.io/docs/what-is-grpc), JSON
// in and JSON out by the JSON mapping of protobuf. What a method takes and gives
// is known from the upstream's server reflection or from a file (grpcschema.go).
//
// It asks over the same connections as the other drivers, made only when a call
// needs one: a channel of grpc-go connects by itself while it is broken, also to
// an upstream that an open circuit leaves alone.

// grpcSchemes: plain HTTP/2, and HTTP/2 over TLS.
var grpcSchemes = []string{"grpc", "grpcs"}

// grpcUpstream is an upstream that speaks gRPC.
type grpcUpstream struct {
	*httpEndpoint
	base   string // its URL as HTTP knows it
	schema *schema
}

// checkGRPC reads the descriptor set, if there is one, to hold calls against it.
func checkGRPC(e Endpoint, report Report) func(c Call, report Report) {
	var set *descriptors
	if e.Descriptors != "" {
		var err error
		if set, err = readDescriptors(e.Descriptors); err != nil {
			report("descriptors", err.Error(), "make it with buf build -o name.binpb, or protoc --include_imports --descriptor_set_out=name.binpb")
		}
	}
	return func(c Call, report Report) { checkGRPCCall(set, c, report) }
}

func checkGRPCCall(set *descriptors, c Call, report Report) {
	service, name, ok := splitMethod(c.Method)
	switch {
	case c.Method == "":
		report("method", "it is missing", "write package.Service/Method, such as grpc.health.v1.Health/Check")
	case !ok:
		report("method", "it is no gRPC method", "write package.Service/Method, such as grpc.health.v1.Health/Check")
	case set != nil:
		if _, f := set.method(service, name); f != nil {
			report("method", f.Detail, "correct it, or make the descriptor set anew")
		}
	}
	if p := bytes.TrimSpace(c.Params); len(p) > 0 && p[0] != '{' {
		report("params", "a gRPC request is a message", "write a map of its fields")
	}
	for _, k := range []struct {
		key string
		set bool
	}{{"path", c.Path != ""}, {"query", len(c.Query) > 0}, {"body", c.Body != nil}} {
		if k.set {
			report(k.key, "a gRPC call has none", "put the request's fields into params")
		}
	}
	for k := range c.Header {
		if strings.HasPrefix(strings.ToLower(k), "grpc-") {
			report("headers."+k, "names that start with grpc- are the protocol's own", "remove it")
		}
	}
}

// splitMethod takes "package.Service/Method" apart.
func splitMethod(s string) (service, method string, ok bool) {
	service, method, ok = strings.Cut(s, "/")
	return service, method, ok && protoreflect.FullName(service).IsValid() && protoreflect.Name(method).IsValid()
}

func openGRPC(e Endpoint) (Func, func(), error) {
	rest, secure := strings.CutPrefix(e.URL, "grpcs://")
	protocols, scheme := new(http.Protocols), "https://"
	if secure {
		protocols.SetHTTP2(true)
	} else {
		rest, scheme = strings.TrimPrefix(e.URL, "grpc://"), "http://"
		protocols.SetUnencryptedHTTP2(true)
	}
	g := &grpcUpstream{
		httpEndpoint: &httpEndpoint{Endpoint: e, connections: newConnections(e, protocols)},
		base:         scheme + strings.TrimSuffix(rest, "/"),
		schema:       newSchema(),
	}
	if !secure {
		g.transport.Proxy = nil // none forwards plain HTTP/2
	}
	if e.Descriptors != "" {
		var err error
		if g.schema.fixed, err = readDescriptors(e.Descriptors); err != nil {
			return nil, nil, fmt.Errorf("descriptors: %w", err)
		}
	}
	call := func(ctx context.Context, c Call) (json.RawMessage, error) {
		value, err := g.call(ctx, c)
		if f, ok := errors.AsType[*Failure](err); ok {
			own := *f // it may be one that several calls share
			return nil, own.scrub(e.Secrets)
		}
		return value, err
	}
	return call, g.close, nil
}

func (g *grpcUpstream) call(ctx context.Context, c Call) (json.RawMessage, error) {
	start := time.Now()
	g.renew(start)
	service, name, ok := splitMethod(c.Method)
	if !ok {
		return nil, rejected("method is not written package.Service/Method")
	}
	m, err := g.method(ctx, service, name, start)
	if err != nil {
		return nil, err
	}
	request, err := m.encode(c.Params)
	if err != nil {
		return nil, err
	}
	req := connect.NewRequest(&rawMessage{request})
	g.setHeader(req.Header(), c.Header)
	resp, err := m.client.CallUnary(ctx, req)
	if err != nil {
		err = g.failure(ctx, err, start)
		if f, ok := errors.AsType[*Failure](err); ok && f.unknownMethod {
			g.schema.forget(m)
		}
		return nil, err
	}
	// The call may have made a connection, to an upstream that is another one
	// since, and so means something else by the same bytes.
	if m, err = g.method(ctx, service, name, start); err != nil {
		return nil, err
	}
	return m.decode(resp.Msg.data, g.resolver(ctx, m, start))
}

// to makes requests of one method, with answers of at most limit bytes.
func (g *grpcUpstream) to(path string, limit int64) *connect.Client[rawMessage, rawMessage] {
	return connect.NewClient[rawMessage, rawMessage](g, g.base+path,
		connect.WithGRPC(), connect.WithCodec(rawCodec{}), connect.WithReadMaxBytes(int(limit)),
		connect.WithAcceptCompression("gzip", func() connect.Decompressor { return &gunzip{limit: limit} }, nil))
}

func (g *grpcUpstream) setHeader(to, own http.Header) {
	for _, h := range []http.Header{g.Header, own} {
		for name, values := range h {
			to[name] = values
		}
	}
}

// Do sends a request. An answer that is no gRPC is a *Failure.
func (g *grpcUpstream) Do(req *http.Request) (*http.Response, error) {
	resp, err := g.transport.RoundTrip(req)
	if err != nil {
		return nil, g.verdict(err)
	}
	g.answered()
	a := &answer{
		status: resp.StatusCode, statusText: statusText(resp), location: host(resp),
		mediaType: mediaType(resp.Header.Get("Content-Type")), retryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}
	f := statusFailure(a)
	switch {
	case f != nil && a.status == http.StatusNotFound:
		f.unknownMethod = true
	case f == nil && a.mediaType == "text/html":
		f = badResponse("answer is HTML, not gRPC")
	case f == nil && a.mediaType != "application/grpc" && a.mediaType != "application/grpc+proto":
		f = badResponse(fmt.Sprintf("answer is not gRPC, but %q", short(a.mediaType)))
	}
	if f != nil {
		_ = resp.Body.Close()
		return nil, f
	}
	return resp, nil
}

// encode makes a request of a poll's parameters.
func (m *grpcMethod) encode(params json.RawMessage) ([]byte, error) {
	msg := dynamicpb.NewMessage(m.desc.Input())
	if params != nil {
		if err := (protojson.UnmarshalOptions{Resolver: m.types}).Unmarshal(params, msg); err != nil {
			return nil, rejected(fmt.Sprintf("params are no %s: %s", m.desc.Input().FullName(), protoText(err)))
		}
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return nil, rejected(fmt.Sprintf("params are no %s: %s", m.desc.Input().FullName(), protoText(err)))
	}
	return data, nil
}

// decode makes a value of an answer: the JSON mapping of protobuf, with the
// fields that hold their default, so that a count of 0 is 0 and not absent.
func (m *grpcMethod) decode(data []byte, types resolver) (json.RawMessage, error) {
	msg := dynamicpb.NewMessage(m.desc.Output())
	if err := (proto.UnmarshalOptions{Resolver: m.types}).Unmarshal(data, msg); err != nil {
		return nil, badResponse(fmt.Sprintf("answer is no %s: %s", m.desc.Output().FullName(), protoText(err)))
	}
	text, err := protojson.MarshalOptions{EmitDefaultValues: true, Resolver: types}.Marshal(msg)
	if err != nil {
		if f, ok := errors.AsType[*Failure](types.err()); ok {
			return nil, f
		}
		if err := types.err(); err != nil {
			return nil, err
		}
		return nil, badResponse(fmt.Sprintf("answer, a %s, cannot be written as JSON: %s", m.desc.Output().FullName(), protoText(err)))
	}
	// protojson varies its white space on purpose.
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, badResponse("answer cannot be written as JSON: " + err.Error())
	}
	return compact.Bytes(), nil
}

// protoText is an error of the protobuf library without its prefix, whose space
// is now and then another one.
func protoText(err error) string {
	text := strings.TrimPrefix(err.Error(), "proto:")
	return strings.TrimLeft(text, " \u00a0")
}

// rawMessage is a message as it travels; rawCodec hands it through.
type rawMessage struct{ data []byte }

type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case *rawMessage:
		return v.data, nil
	case proto.Message: // connect's own, in errors
		return proto.Marshal(v)
	}
	return nil, fmt.Errorf("%T is no message", v)
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	switch v := v.(type) {
	case *rawMessage:
		v.data = bytes.Clone(data) // which connect uses again
		return nil
	case proto.Message:
		return proto.Unmarshal(data, v)
	}
	return fmt.Errorf("%T is no message", v)
}

// gunzip undoes gzip up to a limit: connect itself reads on to learn how long
// the message would have been.
type gunzip struct {
	decompressor
	limit, read int64
}

func (z *gunzip) Reset(r io.Reader) error {
	z.read = 0
	return z.reset(r)
}

func (z *gunzip) Read(p []byte) (int, error) {
	n, err := z.decompressor.Read(p)
	if z.read += int64(n); z.read > z.limit {
		return n, badResponse("answer is longer than " + size(z.limit))
	}
	return n, err
}
