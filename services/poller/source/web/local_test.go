//go:build unix

package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/pollcast/pollcast/services/poller/source"
)

// A poller that may open no more files reports its own fault. (This test is not
// parallel: nothing else may open a file meanwhile.)
func TestTooManyFiles(t *testing.T) {
	u := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(u.Close)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 3 // stdin, stdout and stderr are open
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	_, err := GetThrough(t, source.Endpoint{URL: u.URL, MaxAnswer: 100}, nil)
	if err2 := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err2 != nil {
		t.Fatal(err2)
	}
	if err == nil || !strings.Contains(err.Error(), "this poller has too many open files (ulimit -n)") {
		t.Errorf("have %v", err)
	}
}
