package wire

import (
	"fmt"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/wire/wirepb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// MarshalProto returns the frame in the form of ProtocolProto: one binary
// message.
func (f *ServerFrame) MarshalProto() ([]byte, error) { return proto.Marshal(f.toProto()) }

func (f *ServerFrame) toProto() *wirepb.ServerFrame {
	out := &wirepb.ServerFrame{Id: f.ID}
	switch {
	case f.Welcome != nil:
		out.Frame = &wirepb.ServerFrame_Welcome{Welcome: &wirepb.Welcome{
			Connection: f.Welcome.Connection, Gateway: f.Welcome.Gateway, Epoch: f.Welcome.Epoch,
			PingIntervalMs: f.Welcome.PingIntervalMs,
		}}
	case f.Subscribed != nil:
		s := f.Subscribed
		out.Frame = &wirepb.ServerFrame_Subscribed{Subscribed: &wirepb.Subscribed{
			Topics: s.Topics, Seq: s.Seq, Epoch: s.Epoch, Resumed: s.Resumed, Reason: s.Reason,
		}}
	case f.Unsubscribed != nil:
		out.Frame = &wirepb.ServerFrame_Unsubscribed{Unsubscribed: &wirepb.Unsubscribed{Topics: f.Unsubscribed.Topics}}
	case f.Pong != nil:
		out.Frame = &wirepb.ServerFrame_Pong{Pong: &wirepb.Pong{}}
	case f.Authenticated != nil:
		a := &wirepb.Authenticated{ExpiresAt: stamp(f.Authenticated.ExpiresAt)}
		out.Frame = &wirepb.ServerFrame_Authenticated{Authenticated: a}
	case f.Event != nil:
		e := f.Event
		out.Frame = &wirepb.ServerFrame_Event{Event: &wirepb.Event{
			Topic: e.Topic, Seq: e.Seq, Version: e.Version, Phase: string(e.Phase),
			ChangedAt: stamp(e.ChangedAt), AsOf: stamp(e.AsOf), AgeMs: e.AgeMs,
			Stale: e.Stale, Reason: string(e.Reason), Breaker: string(e.Breaker),
			Data: e.Data, Deleted: e.Deleted, Key: e.Key, Poll: e.Poll, Upstream: e.Upstream,
			Position: e.Position, Reorganised: e.Reorganised,
		}}
	case f.Fresh != nil:
		out.Frame = &wirepb.ServerFrame_Fresh{Fresh: freshToProto(f.Fresh)}
	case f.Breaker != nil:
		b := f.Breaker
		out.Frame = &wirepb.ServerFrame_Breaker{Breaker: &wirepb.BreakerTransition{
			Source: b.Source, Upstream: b.Upstream, From: string(b.From), To: string(b.To), Cause: b.Cause,
			Failures: int32(b.Failures), At: stamp(b.At), NextProbeAt: stamp(b.NextProbeAt), Fence: b.Fence,
		}}
	case f.Error != nil:
		out.Frame = &wirepb.ServerFrame_Error{Error: &wirepb.Error{
			Code: string(f.Error.Code), Message: f.Error.Message, Retryable: f.Error.Retryable,
		}}
	case f.GoAway != nil:
		out.Frame = &wirepb.ServerFrame_Goaway{Goaway: &wirepb.GoAway{
			Reason: f.GoAway.Reason, ReconnectAfterMs: f.GoAway.ReconnectAfterMs,
		}}
	}
	return out
}

func freshToProto(f *event.Freshness) *wirepb.Freshness {
	return &wirepb.Freshness{
		Poll: f.Poll, AsOf: stamp(f.AsOf), CheckedAt: stamp(f.CheckedAt), Stale: f.Stale, Reason: string(f.Reason),
		Detail: f.Detail, Breaker: string(f.Breaker), ConsecutiveFailures: int32(f.ConsecutiveFailures),
		NextProbeAt: stamp(f.NextProbeAt), IntervalMs: f.IntervalMs, MaxAgeMs: f.MaxAgeMs, Fence: f.Fence,
	}
}

// UnmarshalProto reads a client frame in the form of ProtocolProto. A frame that
// this version does not know leaves every field but ID unset.
func (f *ClientFrame) UnmarshalProto(b []byte) error {
	var in wirepb.ClientFrame
	if err := proto.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("not a ClientFrame: %w", err)
	}
	*f = ClientFrame{ID: in.Id}
	switch v := in.Frame.(type) {
	case *wirepb.ClientFrame_Subscribe:
		s := v.Subscribe
		f.Subscribe = &Subscribe{Topics: s.Topics, Delivery: s.Delivery, MaxHz: s.MaxHz, Replay: s.Replay}
		f.Subscribe.Since, f.Subscribe.NotOlderThan = sinceFromProto(s.Since), sinceFromProto(s.NotOlderThan)
	case *wirepb.ClientFrame_Unsubscribe:
		f.Unsubscribe = &Unsubscribe{Topics: v.Unsubscribe.Topics}
	case *wirepb.ClientFrame_Ping:
		f.Ping = &Ping{}
	case *wirepb.ClientFrame_Authenticate:
		f.Authenticate = &Authenticate{Token: v.Authenticate.Token}
	}
	return nil
}

func sinceFromProto(p *wirepb.Since) *Since {
	if p == nil {
		return nil
	}
	return &Since{Seq: p.Seq, Epoch: p.Epoch}
}

// stamp returns nil for the zero time, which JSON omits too.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
