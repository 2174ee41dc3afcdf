package gateway

import "net/http"

// routes are the paths for clients. console is served at every other path.
func (s *server) routes(console http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	ws := s.upgrade()
	mux.HandleFunc("GET /v1/ws", ws)
	mux.HandleFunc("GET /ws", ws)
	mux.HandleFunc("GET /v1/events", s.serveSSE)
	mux.HandleFunc("GET /v1/topics", s.serveTopics)
	mux.HandleFunc("GET /v1/values", s.serveValues)
	for _, path := range []string{"/v1/ws", "/ws", "/v1/events", "/v1/topics", "/v1/values"} {
		mux.HandleFunc(path, onlyGet)
	}
	mux.Handle("/", console)
	return mux
}

func onlyGet(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, r.Method+" does nothing here; use GET", http.StatusMethodNotAllowed)
}
