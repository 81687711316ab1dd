package main

import (
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// open prepares a benchmark as main does, but short and of ours alone.
func open(t *testing.T) *bench {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("what programs use is read from /proc")
	}
	for _, program := range []string{"nginx", "wrk", "h2load", "dnsperf", "smtp-source"} {
		testenv.Need(t, program, "internal/bench/install")
	}
	runtime.LockOSThread() // as main does
	t.Cleanup(runtime.UnlockOSThread)
	b := &bench{
		// The system counts CPU time in hundredths of a second: so many bytes take several.
		rounds: 2, duration: time.Second, size: 500_000_000, idlers: 100, records: 30_000, flood: 20_000,
		only: []string{"nobody"}, profiles: t.TempDir(), progress: io.Discard,
	}
	t.Cleanup(b.close)
	if err := b.open(); err != nil {
		t.Fatal(err)
	}
	return b
}

// Every row measures ours.
func TestRows(t *testing.T) {
	testenv.Goroutines(t)
	b := open(t)
	for _, r := range b.rows() {
		t.Run(r.name, func(t *testing.T) {
			if testing.Short() && r.name != "http1" {
				t.Skip("takes seconds")
			}
			s, err := b.start(&r, r.peers[0])
			if err != nil {
				t.Fatal(err)
			}
			defer s.proc.stop()
			figures, err := r.measure(s, b.duration)
			if err != nil {
				t.Fatal(err)
			}
			if len(figures) != len(r.columns) || figures[0] <= 0 {
				t.Errorf("figures %v for columns %v", figures, r.columns)
			}
		})
	}
}

// From the load to the report.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	b := open(t)
	r := b.rows()[0]
	r.targets = []target{{0, "", 0.001}} // out of reach, so that the profile is shown
	table, err := b.run(t.Context(), &r)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	b.writeHead(&text)
	table.write(&text)
	for _, want := range []string{"medians of 2 rounds of 1s", "| ours |", "**missed**", "syscall"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in the report:\n%s", want, text.String())
		}
	}
	if n := len(table.samples[0]); n != 2 {
		t.Errorf("%d samples, want 2", n)
	}
}

// A server that gives wrong answers has no figures.
func TestWrongAnswers(t *testing.T) {
	b := open(t)
	wrong, err := newBulkSource(1_000_000) // too little, and no HTTP
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.ln.Close()
	for _, r := range b.rows() {
		if r.name == "apply" || r.backend == 0 {
			continue // the first counts them, the others have no back end
		}
		r.backend = wrong.port()
		s, err := b.start(&r, r.peers[0])
		if err != nil {
			t.Fatal(err)
		}
		if figures, err := r.measure(s, b.duration); err == nil {
			t.Errorf("%s: figures %v for wrong answers", r.name, figures)
		}
		s.proc.stop()
	}
}

// Requests that fail while routes change are counted.
func TestFailuresWhileApplying(t *testing.T) {
	b := open(t)
	for _, r := range b.rows() {
		if r.name != "apply" {
			continue
		}
		r.backend = b.source.port()
		s, err := b.start(&r, r.peers[0])
		if err != nil {
			t.Fatal(err)
		}
		defer s.proc.stop()
		figures, err := r.measure(s, b.duration)
		if err != nil || figures[3] == 0 {
			t.Errorf("figures %v, %v", figures, err)
		}
	}
}
