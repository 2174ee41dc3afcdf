package hostrpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
)

const maxFaultBody = 4 << 10

// FaultsHandler serves a server's faults to a console of the same origin, under
// any path. GET answers
//
//	{"allowed":true,"methods":[...],"kinds":[...],"active":[{"method","kind","delayMs"}]}
//
// and so do POST {"method","kind","delayMs"}, which sets one, and DELETE, which
// clears all. Both need Content-Type application/json and are refused to pages of
// other sites. Errors are {"error":{"code","message"}}.
func (s *Server) FaultsHandler() http.Handler {
	var origin http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			writeJSON(w, http.StatusOK, s.faults.state())
			return
		case http.MethodPost, http.MethodDelete:
		default:
			w.Header().Set("Allow", "GET, HEAD, POST, DELETE")
			writeFaultError(w, http.StatusMethodNotAllowed, "method_not_allowed", "use GET, POST or DELETE")
			return
		}
		if err := origin.Check(r); err != nil {
			writeFaultError(w, http.StatusForbidden, "cross_origin", "a page of another site may not change faults")
			return
		}
		// A form cannot send this type, so a page of another site cannot use an
		// old browser that sends no origin.
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			writeFaultError(w, http.StatusUnsupportedMediaType, "unsupported_media_type", "send Content-Type: application/json")
			return
		}
		if !s.faults.Allowed() {
			writeFaultError(w, http.StatusForbidden, "not_allowed", ErrFaultsNotAllowed.Error())
			return
		}
		if r.Method == http.MethodDelete {
			s.faults.Clear()
			writeJSON(w, http.StatusOK, s.faults.state())
			return
		}
		fault, err := readFault(http.MaxBytesReader(w, r.Body, maxFaultBody))
		if err == nil {
			err = s.faults.Set(fault)
		}
		if err != nil {
			writeFaultError(w, http.StatusBadRequest, "bad_fault", err.Error())
			return
		}
		writeJSON(w, http.StatusOK, s.faults.state())
	})
}

func readFault(body io.Reader) (Fault, error) {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	var fault Fault
	if err := dec.Decode(&fault); err != nil {
		return Fault{}, fmt.Errorf("%w: read body: %w", ErrBadFault, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Fault{}, fmt.Errorf("%w: the body has more than one JSON value", ErrBadFault)
	}
	return fault, nil
}

func writeFaultError(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}

// writeJSON answers with a value that always marshals. A write fails only when
// the client has gone.
func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
