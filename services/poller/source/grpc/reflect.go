package grpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// This file asks server reflection (https://grpc.io/docs/guides/reflection): a
// stream on which the upstream is asked for the file that holds a symbol, and for
// the files that it imports. The two versions of the protocol have the same
// messages. Only the few fields below are used; the generated package would link
// grpc-go.

var reflectionVersions = []string{"grpc.reflection.v1", "grpc.reflection.v1alpha"}

// The field numbers of ServerReflectionRequest and ServerReflectionResponse.
const (
	askForFile   protowire.Number = 3 // by the name of the file
	askForSymbol protowire.Number = 4
	answerFiles  protowire.Number = 4
	answerError  protowire.Number = 7
)

const (
	// maxFiles bounds the files that one symbol needs.
	maxFiles = 5000
	// statusNotFound is the gRPC status in an ErrorResponse.
	statusNotFound = 5
)

// reflect asks the upstream to describe a service or a message.
func (g *upstream) reflect(ctx context.Context, symbol string, start time.Time) (*descriptors, error) {
	g.schema.mu.Lock()
	versions := reflectionVersions
	if v := g.schema.version; v != "" && v != versions[0] {
		versions = []string{v, versions[0]}
	}
	g.schema.mu.Unlock()
	for _, version := range versions {
		files, err := g.collect(ctx, version, symbol)
		if err == nil {
			g.schema.mu.Lock()
			g.schema.version = version
			g.schema.mu.Unlock()
			d, err := newDescriptors(files, true)
			if err != nil {
				return nil, source.BadResponse("server reflection: the upstream's files do not fit together: " + protoText(err))
			}
			return d, nil
		}
		fromWire := connect.IsWireError(err)
		err = g.failure(ctx, err, start)
		f, ok := errors.AsType[*source.Failure](err)
		_, unknown := errors.AsType[unknownMethod](err)
		switch {
		case !ok:
			return nil, ctx.Err()
		case !unknown:
			// Without a connection the call itself would have failed in the same
			// way.
			if f.Reason != event.UpstreamError || fromWire {
				f.Detail = "server reflection: " + f.Detail
			}
			return nil, f
		}
	}
	return nil, source.Rejected("upstream offers no server reflection; name a descriptor set (descriptors)")
}

// collect returns the file of a symbol and all files that it imports.
func (g *upstream) collect(ctx context.Context, version, symbol string) ([]*descriptorpb.FileDescriptorProto, error) {
	c := collector{known: map[string]bool{}}
	if err := c.ask(ctx, g, version, askForSymbol, symbol); err != nil {
		return nil, err
	}
	for len(c.wanted) > 0 {
		names := c.wanted
		c.wanted = nil
		if err := c.ask(ctx, g, version, askForFile, names...); err != nil {
			return nil, err
		}
	}
	return c.files, nil
}

// collector gathers files.
type collector struct {
	files  []*descriptorpb.FileDescriptorProto
	known  map[string]bool // received, requested, or protobuf's own
	wanted []string
	size   int
}

// ask makes one call with a request for each name. It closes its side before it
// reads: until then net/http does not notice that the context ends.
func (c *collector) ask(ctx context.Context, g *upstream, version string, field protowire.Number,
	names ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	stream := g.to("/"+version+".ServerReflection/ServerReflectionInfo", maxDescriptors).CallBidiStream(ctx)
	defer func() {
		cancel() // first: CloseResponse would wait for unread messages
		_ = stream.CloseResponse()
	}()
	g.SetHeader(stream.RequestHeader(), nil)
	for _, name := range names {
		request := protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), name)
		// Receive returns the reason why the upstream has ended the call.
		if err := stream.Send(&rawMessage{request}); err != nil && !errors.Is(err, io.EOF) {
			_ = stream.CloseRequest()
			return err
		}
	}
	if err := stream.CloseRequest(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for range names {
		answer, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return source.BadResponse("the upstream ended it without an answer")
		}
		if err != nil {
			return err
		}
		err = c.learn(answer.data)
		if f, ok := errors.AsType[*source.Failure](err); ok && !f.Counts && field == askForFile {
			continue // the upstream itself lacks the file; perhaps no call needs it
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// learn takes in one answer.
func (c *collector) learn(answer []byte) error {
	if c.size += len(answer); c.size > maxDescriptors || len(c.known) > maxFiles {
		return source.BadResponse(fmt.Sprintf("the description is longer than %s or %d files", source.Size(maxDescriptors),
			maxFiles))
	}
	for number, value := range fields(answer) {
		switch number {
		case answerError:
			return reflectionError(value)
		case answerFiles:
			return c.take(value)
		}
	}
	return source.BadResponse("the upstream's answer holds neither files nor an error")
}

// take takes in a FileDescriptorResponse, which is a list of files.
func (c *collector) take(response []byte) error {
	var fresh []*descriptorpb.FileDescriptorProto
	for number, value := range fields(response) {
		if number != 1 {
			continue
		}
		f := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(value, f); err != nil {
			return source.BadResponse("the upstream's answer is no description")
		}
		if !slices.ContainsFunc(c.files,
			func(o *descriptorpb.FileDescriptorProto) bool { return o.GetName() == f.GetName() }) {
			c.known[f.GetName()] = true
			c.files = append(c.files, f)
			fresh = append(fresh, f)
		}
	}
	for _, f := range fresh {
		for _, name := range f.GetDependency() {
			if c.known[name] {
				continue
			}
			c.known[name] = true
			if own, err := protoregistry.GlobalFiles.FindFileByPath(name); err == nil && own.Package() == "google.protobuf" {
				continue // newDescriptors adds it
			}
			c.wanted = append(c.wanted, name)
		}
	}
	return nil
}

// reflectionError reads an ErrorResponse.
func reflectionError(response []byte) *source.Failure {
	code, message := uint64(0), ""
	for len(response) > 0 {
		number, kind, n := protowire.ConsumeTag(response)
		if n < 0 {
			break
		}
		response = response[n:]
		switch {
		case number == 1 && kind == protowire.VarintType:
			code, n = protowire.ConsumeVarint(response)
		case number == 2 && kind == protowire.BytesType:
			message, n = protowire.ConsumeString(response)
		default:
			n = protowire.ConsumeFieldValue(number, kind, response)
		}
		if n < 0 {
			break
		}
		response = response[n:]
	}
	if code == statusNotFound {
		return source.Rejected("the upstream knows no such name: " + message)
	}
	return source.UpstreamError(fmt.Sprintf("error %d: %s", code, message))
}

// fields yields the fields of a message that hold bytes. It ends at the first
// invalid field.
func fields(message []byte) func(yield func(protowire.Number, []byte) bool) {
	return func(yield func(protowire.Number, []byte) bool) {
		for len(message) > 0 {
			number, kind, n := protowire.ConsumeTag(message)
			if n < 0 {
				return
			}
			message = message[n:]
			if kind == protowire.BytesType {
				value, n := protowire.ConsumeBytes(message)
				if n < 0 || !yield(number, value) {
					return
				}
				message = message[n:]
				continue
			}
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return
			}
			message = message[n:]
		}
	}
}
