package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// profile takes a CPU profile of our server under the row's load, after the
// rounds because it costs some itself, and returns its top. The whole goes
// into the folder of profiles, as row.pprof.
func (b *bench) profile(r *row, s *server) (string, error) {
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return "", err
	}
	file := filepath.Join(b.profiles, r.name+".pprof")
	done := make(chan error, 1)
	go func() {
		data, err := s.ask(fmt.Sprintf("profile?seconds=%d", max(1, int(b.duration.Seconds()))))
		if err == nil {
			err = os.WriteFile(file, data, 0o644)
		}
		done <- err
	}()
	for {
		if _, err := r.measure(s, b.duration); err != nil {
			<-done
			return "", err
		}
		select {
		case err := <-done:
			if err != nil {
				return "", err
			}
			return top(file)
		default:
		}
	}
}

// ask makes a request on the control port of ours.
func (s *server) ask(what string) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://%s/%s", loopback(s.control), what))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", what, resp.Status, data)
	}
	return data, err
}

// top is the part of "pprof -top" that is about functions.
func top(file string) (string, error) {
	out, err := exec.Command("go", "tool", "pprof", "-top", "-cum", "-nodecount=30", file).Output()
	if err != nil {
		return "", fmt.Errorf("pprof: %w", err)
	}
	_, functions, _ := strings.Cut(string(out), "flat  flat%")
	return "      flat  flat%" + functions, nil
}
