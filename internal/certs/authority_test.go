package certs

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// An authority that sends without end, be it in one reply or in many, fills no
// memory.
func TestAuthoritySendsWithoutEnd(t *testing.T) {
	r := &replies{next: transport(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Request: req, Body: io.NopCloser(zeros{})}, nil
	})}
	total, err := int64(0), error(nil)
	for range 100 {
		req, reqErr := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://ca.example/x", nil)
		if reqErr != nil {
			t.Fatal(reqErr)
		}
		resp, tripErr := r.RoundTrip(req)
		if tripErr != nil {
			t.Fatal(tripErr)
		}
		n := int64(0)
		n, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if total += n; n > maxResponse {
			t.Fatalf("%d bytes of one reply", n)
		}
		if err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "too much") || total > maxResponses+maxResponse {
		t.Errorf("%d bytes, %v", total, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
