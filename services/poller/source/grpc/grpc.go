package grpc

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
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/web"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Driver is the driver grpc. Its URLs stand for HTTP/2 without and with TLS.
var Driver = source.Driver{
	Open: open, Schemes: []string{"grpc", "grpcs"}, Described: true, Check: check,
}

// upstream is an upstream that speaks gRPC.
type upstream struct {
	*web.Client
	base   string // its URL with http or https
	schema *schema
}

// check reads the descriptor set, if there is one, and checks calls against it.
func check(e source.Endpoint, report source.Report) func(c source.Call, report source.Report) {
	var set *descriptors
	if e.Descriptors != "" {
		var err error
		if set, err = readDescriptors(e.Descriptors); err != nil {
			report("descriptors", err.Error(),
				"make it with buf build -o name.binpb, or protoc --include_imports --descriptor_set_out=name.binpb")
		}
	}
	return func(c source.Call, report source.Report) { checkCall(set, c, report) }
}

func checkCall(set *descriptors, c source.Call, report source.Report) {
	service, name, ok := splitMethod(c.Method)
	switch {
	case c.Method == "":
		report("method", "it is missing", "write package.Service/Method, such as grpc.health.v1.Health/Check")
	case !ok:
		report("method", "it is no gRPC method", "write package.Service/Method, such as grpc.health.v1.Health/Check")
	case set != nil:
		if _, f := set.method(service, name); f != nil {
			report("method", f.Detail, "correct it, or make the descriptor set again")
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

// splitMethod splits "package.Service/Method".
func splitMethod(s string) (service, method string, ok bool) {
	service, method, ok = strings.Cut(s, "/")
	return service, method, ok && protoreflect.FullName(service).IsValid() && protoreflect.Name(method).IsValid()
}

func open(e source.Endpoint) (source.Func, func(), error) {
	rest, secure := strings.CutPrefix(e.URL, "grpcs://")
	scheme := "https://"
	if !secure {
		rest, scheme = strings.TrimPrefix(e.URL, "grpc://"), "http://"
	}
	g := &upstream{
		Client: web.NewHTTP2(e, !secure),
		base:   scheme + strings.TrimSuffix(rest, "/"),
		schema: newSchema(),
	}
	if e.Descriptors != "" {
		var err error
		if g.schema.fixed, err = readDescriptors(e.Descriptors); err != nil {
			return nil, nil, fmt.Errorf("descriptors: %w", err)
		}
	}
	return e.Scrub(g.call), g.Close, nil
}

func (g *upstream) call(ctx context.Context, c source.Call) (json.RawMessage, error) {
	start := time.Now()
	g.Renew(start)
	service, name, ok := splitMethod(c.Method)
	if !ok {
		return nil, source.Rejected("method is not written package.Service/Method")
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
	g.SetHeader(req.Header(), c.Header)
	resp, err := m.client.CallUnary(ctx, req)
	if err != nil {
		err = g.failure(ctx, err, start)
		if _, unknown := errors.AsType[unknownMethod](err); unknown {
			g.schema.forget(m)
		}
		return nil, err
	}
	// The call may have made a new connection, which may lead to another version
	// of the upstream: the same bytes may mean something else there.
	if m, err = g.method(ctx, service, name, start); err != nil {
		return nil, err
	}
	return m.decode(resp.Msg.data, g.resolver(ctx, m, start))
}

// to returns a client for one method, with answers of at most limit bytes.
func (g *upstream) to(path string, limit int64) *connect.Client[rawMessage, rawMessage] {
	return connect.NewClient[rawMessage, rawMessage](g, g.base+path,
		connect.WithGRPC(), connect.WithCodec(rawCodec{}), connect.WithReadMaxBytes(int(limit)),
		connect.WithAcceptCompression("gzip", func() connect.Decompressor { return &gunzip{limit: limit} }, nil))
}

// Do sends a request. The error of an answer that is not gRPC is a
// *source.Failure.
func (g *upstream) Do(req *http.Request) (*http.Response, error) {
	resp, err := g.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	a := web.Head(resp)
	f := a.Failure()
	switch {
	case f == nil && a.MediaType == "text/html":
		f = source.BadResponse("answer is HTML, not gRPC")
	case f == nil && a.MediaType != "application/grpc" && a.MediaType != "application/grpc+proto":
		f = source.BadResponse(fmt.Sprintf("answer is not gRPC, but %q", web.Short(a.MediaType)))
	}
	if f == nil {
		return resp, nil
	}
	_ = resp.Body.Close()
	if a.Status == http.StatusNotFound {
		return nil, unknownMethod{f}
	}
	return nil, f
}

// encode returns the request for a poll's parameters.
func (m *method) encode(params json.RawMessage) ([]byte, error) {
	msg := dynamicpb.NewMessage(m.desc.Input())
	if params != nil {
		if err := (protojson.UnmarshalOptions{Resolver: m.types}).Unmarshal(params, msg); err != nil {
			return nil, source.Rejected(fmt.Sprintf("params are no %s: %s", m.desc.Input().FullName(), protoText(err)))
		}
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return nil, source.Rejected(fmt.Sprintf("params are no %s: %s", m.desc.Input().FullName(), protoText(err)))
	}
	return data, nil
}

// decode returns the value of an answer in the JSON mapping of protobuf. Fields
// with their default are included: a count of 0 is 0 and not absent.
func (m *method) decode(data []byte, types resolver) (json.RawMessage, error) {
	msg := dynamicpb.NewMessage(m.desc.Output())
	if err := (proto.UnmarshalOptions{Resolver: m.types}).Unmarshal(data, msg); err != nil {
		return nil, source.BadResponse(fmt.Sprintf("answer is no %s: %s", m.desc.Output().FullName(), protoText(err)))
	}
	text, err := protojson.MarshalOptions{EmitDefaultValues: true, Resolver: types}.Marshal(msg)
	if err != nil {
		if f, ok := errors.AsType[*source.Failure](types.err()); ok {
			return nil, f
		}
		if err := types.err(); err != nil {
			return nil, err
		}
		return nil, source.BadResponse(fmt.Sprintf("answer, a %s, cannot be written as JSON: %s", m.desc.Output().FullName(),
			protoText(err)))
	}
	// protojson varies its white space on purpose. The value must not vary.
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return nil, source.BadResponse("answer cannot be written as JSON: " + err.Error())
	}
	return compact.Bytes(), nil
}

// protoText returns the text of a protobuf error without its prefix, after which
// the library varies the space.
func protoText(err error) string {
	text := strings.TrimPrefix(err.Error(), "proto:")
	return strings.TrimLeft(text, " \u00a0")
}

// rawMessage is an encoded message. rawCodec passes it through.
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
		v.data = bytes.Clone(data) // connect reuses data
		return nil
	case proto.Message:
		return proto.Unmarshal(data, v)
	}
	return fmt.Errorf("%T is no message", v)
}

// gunzip undoes gzip up to a limit. Without it, connect would read on to find the
// length of the message.
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
		return n, source.BadResponse("answer is longer than " + source.Size(z.limit))
	}
	return n, err
}
