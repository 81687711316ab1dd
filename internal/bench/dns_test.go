package main

import (
	"bufio"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

const dnsperfOutput = `DNS Performance Testing Tool
Version 2.10.0

[Status] Testing complete (time limit)

Statistics:

  Queries sent:         218340
  Queries completed:    218330 (100.00%)
  Queries lost:         10 (0.00%)

  Response codes:       NOERROR 196500 (90.00%), NXDOMAIN 21830 (10.00%)
  Average packet size:  request 41, response 63
  Run time (s):         2.000925
  Queries per second:   109114.534528
`

func TestParseDNSPerf(t *testing.T) {
	r, err := parseDNSPerf(dnsperfOutput)
	if err != nil || r.sent != 218340 || r.lost != 10 || r.took != 2000925*time.Microsecond || r.codes["NXDOMAIN"] != 21830 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := r.check(0.1); err != nil {
		t.Error(err)
	}
	if r.check(1) == nil || r.check(0) == nil {
		t.Error("another share of NXDOMAIN is as good")
	}
	for _, codes := range []string{"NOERROR 196500 (90.00%), NXDOMAIN 21829 (10.00%), SERVFAIL 1 (0.00%)", "REFUSED 218330 (100.00%)"} {
		before, rest, _ := strings.Cut(dnsperfOutput, "NOERROR")
		_, after, _ := strings.Cut(rest, "\n")
		r, err := parseDNSPerf(before + codes + "\n" + after)
		if err != nil {
			t.Error(err)
		} else if r.check(0.1) == nil {
			t.Errorf("%s passes", codes)
		}
	}
	for _, out := range []string{"", "[Timeout] unable to connect\n", strings.Replace(dnsperfOutput, "NXDOMAIN 21830", "NXDOMAIN 1", 1), strings.Replace(dnsperfOutput, "Run time", "Time", 1)} {
		if r, err := parseDNSPerf(out); err == nil {
			t.Errorf("%+v without an error", r)
		}
	}
}

// The peers' set-ups give the right answers, over whatever they speak.
func TestDNSPeers(t *testing.T) {
	for _, program := range []string{"knotd", "nsd"} {
		testenv.Need(t, program, "internal/bench/install")
	}
	b := open(t)
	for _, r := range b.dnsRows() {
		if r.fresh {
			continue
		}
		for _, p := range r.peers {
			if _, err := find(p.program); err != nil && p.name == "CoreDNS" {
				continue // it takes minutes to build
			}
			t.Run(r.name+"/"+p.name, func(t *testing.T) {
				s, err := b.start(&r, p)
				if err != nil {
					t.Fatal(err)
				}
				defer s.proc.stop()
				if err := b.checkDNS(s); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A DNS server with another zone has no figures.
func TestWrongDNSAnswers(t *testing.T) {
	b := open(t)
	z, err := b.zone(dnsNames)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(z.file)
	if err != nil {
		t.Fatal(err)
	}
	// Only what starting asks about is right.
	last := dnsLabel(z.names-1) + " "
	wrong := strings.ReplaceAll(string(text), " A 10.", " A 11.")
	wrong = strings.ReplaceAll(wrong, last+"A 11.", last+"A 10.")
	if err := writeLines(z.file, func(w *bufio.Writer) { w.WriteString(wrong) }); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.dnsRows() {
		if r.names != dnsNames {
			continue
		}
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

// What is not measured has no figure in the report.
func TestNoFigure(t *testing.T) {
	tab := &table{
		row:     &row{columns: []column{{name: "x", format: "%.1f", ratio: true}}},
		peers:   []peer{{name: "ours"}, {name: "them"}},
		samples: [][][]float64{{{1}}, {{math.NaN()}}},
	}
	var text strings.Builder
	tab.write(&text)
	if !strings.Contains(text.String(), "| them | - |\n") {
		t.Errorf("got:\n%s", text.String())
	}
}
