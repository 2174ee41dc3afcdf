package drivers_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/grpc/grpctest"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
)

// overGRPC is driver grpc under test, with grpc-go as upstream.
func overGRPC(driver source.Driver) sourcetest.Protocol {
	return sourcetest.Protocol{
		Driver: driver,
		Call:   source.Call{Method: "shop.Orders/Free", Params: json.RawMessage(`{"q":1}`)},
		Named:  func(address string) string { return "grpc://" + address },
		Serve: func(t *testing.T, act func(string) sourcetest.Act) (string, func() int) {
			s := grpctest.New(t, func(ctx context.Context, _ string, _ *dynamicpb.Message) (proto.Message, error) {
				return do(ctx, act(grpctest.Meta(ctx, "authorization")))
			})
			return s.URL(), func() int { return int(s.Conns.Load()) }
		},
	}
}

func do(ctx context.Context, a sourcetest.Act) (proto.Message, error) {
	switch a {
	case sourcetest.Hang:
		<-ctx.Done()
		return nil, ctx.Err()
	case sourcetest.Huge:
		return structpb.NewStringValue(strings.Repeat(" ", 100<<20)), nil
	case sourcetest.WrongType:
		return wrapperspb.String("\xff\xfe"[:0] + "no struct at all"), nil
	case sourcetest.Fail:
		return nil, status.Error(codes.Internal, "broken: "+sourcetest.Secret)
	case sourcetest.Busy:
		s, err := status.New(codes.Unavailable,
			"busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(sourcetest.RetryAfter)})
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	case sourcetest.Reject:
		return nil, status.Error(codes.InvalidArgument, "wrong: "+sourcetest.Secret)
	case sourcetest.Slow:
		time.Sleep(sourcetest.Brief)
	}
	v := new(structpb.Struct)
	return v, protojson.Unmarshal([]byte(sourcetest.Value), v)
}
