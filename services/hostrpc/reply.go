package hostrpc

import (
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// recorder remembers what the access log shows. Status 0 means that the
// connection was cut without an answer.
type recorder struct {
	http.ResponseWriter
	status, bytes, calls int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// gzipAbove is the size from which compression is useful: a smaller body fits
// into one packet.
const gzipAbove = 1 << 10

// reject answers a request that never became a call.
func (s *Server) reject(w http.ResponseWriter, r *http.Request, status int, outcome string, fail *rpcError) {
	s.metrics.count(outcome)
	s.write(w, r, status, appendResponse(nil, nil, nil, fail))
}

var gzips = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}

// write sends a body, compressed if that helps and the client accepts it. A write
// fails only when the client has gone.
func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Accept-Encoding")
	if len(body) <= gzipAbove || !acceptsGzip(r.Header.Values("Accept-Encoding")) {
		h.Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(status)
		_, _ = w.Write(body)
		return
	}
	h.Set("Content-Encoding", "gzip")
	w.WriteHeader(status)
	zip := gzips.Get().(*gzip.Writer)
	defer gzips.Put(zip)
	zip.Reset(w)
	_, _ = zip.Write(body)
	_ = zip.Close()
}

// acceptsGzip reads Accept-Encoding (RFC 9110, 12.5.3): a named encoding has
// precedence over "*", and q=0 means no.
func acceptsGzip(values []string) bool {
	var any bool
	for _, part := range strings.Split(strings.Join(values, ","), ",") {
		coding, parameter, _ := strings.Cut(part, ";")
		weight := 1.0
		if q, ok := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(parameter), " ", ""), "q="); ok {
			var err error
			if weight, err = strconv.ParseFloat(q, 64); err != nil {
				weight = 0
			}
		}
		switch strings.ToLower(strings.TrimSpace(coding)) {
		case "gzip", "x-gzip":
			return weight > 0
		case "*":
			any = weight > 0
		}
	}
	return any
}
