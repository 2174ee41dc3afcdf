package hostrpc

import (
	"context"
	"net/http"
	"time"
)

// hold delays a request as its faults require, and cuts the connection when there
// must be no answer.
func (s *Server) hold(ctx context.Context, plan faultPlan, requests []request, start time.Time) {
	wait := plan.delay
	if plan.hang {
		wait = hangFor
	}
	outcome := string(FaultHang) // maxHang has passed
	if release, ok := take(s.held); ok {
		defer release()
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			if !plan.hang {
				return
			}
		case <-s.stopping:
			outcome = outcomeStopped
		case <-ctx.Done():
			outcome = outcomeClientGone
		}
	} else {
		outcome = outcomeOverloaded
	}
	s.observeAll(requests, outcome, start)
	panic(http.ErrAbortHandler)
}

// spoil answers for a fault that concerns the whole body.
func (s *Server) spoil(w http.ResponseWriter, plan faultPlan, requests []request, start time.Time) {
	s.observeAll(requests, string(plan.spoil), start)
	if plan.spoil == FaultHTTP500 {
		http.Error(w, "internal server error", http.StatusInternalServerError)
		return
	}
	contentType, body := garbage(s.spoiled.Add(1))
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body) // fails only when the client has gone
}

func (s *Server) observeAll(requests []request, outcome string, start time.Time) {
	for _, rq := range requests {
		s.metrics.observe(s.label(rq), outcome, time.Since(start))
	}
}

// label returns the method label of the metrics: only names that this server has.
func (s *Server) label(rq request) string {
	if m, ok := s.methods[rq.method]; ok && rq.err == nil {
		return m.Name
	}
	return methodUnknown
}

// answer runs the requests in order and returns the body for all of them; nil
// when all are notifications.
func (s *Server) answer(ctx context.Context, requests []request, batch bool, plan faultPlan, start time.Time) []byte {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var out []byte
	for i, rq := range requests {
		result, fail := s.call(ctx, rq, plan.calls[i])
		outcome := outcomeOK
		if fail != nil {
			outcome = fail.outcome()
		}
		s.metrics.observe(s.label(rq), outcome, time.Since(start))
		if !rq.answered() {
			continue
		}
		switch {
		case !batch:
		case out == nil:
			out = append(out, '[')
		default:
			out = append(out, ',')
		}
		out = appendResponse(out, rq.id, result, fail)
	}
	if batch && out != nil {
		out = append(out, ']')
	}
	return out
}

func (s *Server) call(ctx context.Context, rq request, fault FaultKind) ([]byte, *rpcError) {
	if rq.err != nil {
		return nil, rq.err
	}
	m, ok := s.methods[rq.method]
	if !ok {
		return nil, failf(codeMethodNotFound, "%q is no method here, rpc.methods lists them", clip(rq.method))
	}
	if fault == FaultError {
		return nil, failf(codeServer, "a fault is set on %s", m.Name)
	}
	return s.invoke(ctx, m, rq.params)
}

// take takes one of a channel's places if one is free.
func take(places chan struct{}) (release func(), ok bool) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, true
	default:
		return nil, false
	}
}
