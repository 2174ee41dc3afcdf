package grpc

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/web"
)

// This file decides which failure a gRPC status is
// (https://grpc.io/docs/guides/status-codes):
//
//	status                                              reason             counts
//	INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS,
//	PERMISSION_DENIED, UNAUTHENTICATED, OUT_OF_RANGE,
//	FAILED_PRECONDITION, UNIMPLEMENTED                  request_rejected   no
//	DEADLINE_EXCEEDED                                   timeout            yes
//	all others                                          upstream_error     yes
//
// An outcome that is no gRPC status is classified as for the other drivers
// (web/classify.go).

// unknownMethod is the failure of a method that the upstream does not have.
type unknownMethod struct{ *source.Failure }

func (u unknownMethod) Unwrap() error { return u.Failure }

// failure returns the failure of a call, begun at start; or ctx's cancellation.
func (g *upstream) failure(ctx context.Context, err error, start time.Time) error {
	if web.Cancelled(ctx) {
		return ctx.Err()
	}
	if u, ok := errors.AsType[unknownMethod](err); ok {
		return u
	}
	if f, ok := errors.AsType[*source.Failure](err); ok {
		return f
	}
	e, ok := errors.AsType[*connect.Error](err)
	if ok && connect.IsWireError(e) {
		return statusOf(e)
	}
	g.Failed(start)
	if ctx.Err() != nil || web.IsTimeout(err) {
		return web.Classify(ctx, context.DeadlineExceeded, start)
	}
	if ok && e.Code() == connect.CodeResourceExhausted && strings.Contains(e.Message(), "is larger than configured max") {
		return source.BadResponse("answer is longer than " + source.Size(g.MaxAnswer))
	}
	text := err.Error()
	switch _, reset, _ := strings.Cut(text, "stream error: "); {
	case reset != "" && nearlyOver(ctx, start):
		// The upstream knows the deadline. Its clock may be ahead of ours.
		return web.Classify(ctx, context.DeadlineExceeded, start)
	case reset != "":
		return source.UpstreamError("upstream reset the call: " + reset)
	case ok && (strings.Contains(text, "protocol error") || strings.Contains(text, "incomplete envelope") ||
		strings.Contains(text, "gzip")):
		return source.BadResponse("answer breaks the rules of gRPC: " + e.Message())
	case errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "http2: client connection lost"),
		strings.Contains(text, "server sent GOAWAY"):
		return source.UpstreamError("connection broke off before the answer was complete")
	}
	if inner := errors.Unwrap(e); ok && inner != nil {
		err = inner
	}
	return web.Classify(ctx, err, start)
}

// nearlyOver reports whether less than a tenth of the call's time is left.
func nearlyOver(ctx context.Context, start time.Time) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < deadline.Sub(start)/10
}

// statusOf returns the failure of a status that the upstream sent.
func statusOf(e *connect.Error) error {
	name := strings.ToUpper(e.Code().String())
	if e.Code() == connect.CodeCanceled {
		name = "CANCELLED"
	}
	detail := "gRPC status " + name
	if e.Message() != "" {
		detail += ": " + e.Message()
	}
	f := source.UpstreamError(detail)
	switch e.Code() {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
		connect.CodeUnauthenticated, connect.CodeOutOfRange, connect.CodeFailedPrecondition, connect.CodeUnimplemented:
		f = source.Rejected(detail)
	case connect.CodeDeadlineExceeded:
		f.Reason = event.Timeout
	}
	for _, d := range e.Details() {
		if d.Type() == "google.rpc.RetryInfo" {
			f.RetryAfter = retryDelay(d.Bytes())
		}
	}
	if e.Code() == connect.CodeUnimplemented {
		return unknownMethod{f}
	}
	return f
}

// retryDelay reads the one field of a google.rpc.RetryInfo, a duration.
func retryDelay(info []byte) time.Duration {
	for len(info) > 0 {
		number, kind, n := protowire.ConsumeTag(info)
		if n < 0 {
			return 0
		}
		info = info[n:]
		if number == 1 && kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(info)
			var d durationpb.Duration
			if n < 0 || proto.Unmarshal(value, &d) != nil || d.CheckValid() != nil {
				return 0
			}
			return max(0, d.AsDuration())
		}
		if n = protowire.ConsumeFieldValue(number, kind, info); n < 0 {
			return 0
		}
		info = info[n:]
	}
	return 0
}

// decompressor undoes gzip for connect, which reuses it.
type decompressor struct{ z *gzip.Reader }

func (d *decompressor) reset(r io.Reader) (err error) {
	if d.z == nil {
		d.z, err = gzip.NewReader(r)
		return err
	}
	return d.z.Reset(r)
}

func (d *decompressor) Read(p []byte) (int, error) {
	if d.z == nil {
		return 0, io.EOF
	}
	return d.z.Read(p)
}

// Close ends a message.
func (d *decompressor) Close() error {
	if d.z == nil {
		return nil
	}
	return d.z.Close()
}
