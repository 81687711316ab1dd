package main

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

const head = `# Benchmarks

Written by "make bench". Our servers and others do the same work, one after another on one machine, with the same load, back end and certificate.

- The main figure is the **CPU time that the server uses per unit of work**: user and system time, of all its processes. The load generator and the back end
  share the processors with it, so throughput and latency are those of a full machine, and tell less.
- Figures are medians of %d rounds of %v, after a warm-up; in each round every server has its turn. In brackets: **our figure divided by the server's**, the
  median over the rounds, and the lowest and the highest of them. Below 1 we are better, but for throughput.
- Answers are checked: the status of all, and the contents of the first and the last or, where the load is our own, of all. One that is wrong voids the row.
- HAProxy and nginx are set up as their manuals advise for speed (two threads or workers, connections to the back end reused), and like Caddy and us tell the back end
  the client's address, host and scheme. The configurations are in internal/bench/peers.go, those of DNS servers in dnspeers.go, and that of Postfix in mail.go.

Machine: %d processors (%s), Linux %s, load average %s before the first row. Versions: ours built with %s, %s.

`

// writeHead says what all tables have in common.
func (b *bench) writeHead(w io.Writer) {
	var versions []string
	for _, v := range [][]string{{"HAProxy", "haproxy", "-v"}, {"nginx", "nginx", "-v"}, {"Caddy", "caddy", "version"}, {"wrk", "wrk", "-v"}, {"h2load", "h2load", "--version"},
		{"Knot", "knotd", "-V"}, {"NSD", "nsd", "-v"}, {"CoreDNS", "coredns", "-version"}, {"dnsperf", "dnsperf", "-h"},
		{"Postfix", "postconf", "-hd mail_version"}} {
		versions = append(versions, v[0]+" "+version(v[1], v[2]))
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(w, head, b.rounds, b.duration, runtime.NumCPU(), runtime.GOARCH,
		number(string(kernel)), number(string(load)), runtime.Version(), strings.Join(versions, ", "))
}

// version asks a program for its version.
func version(name, flags string) string {
	program, err := find(name)
	if err != nil {
		return "(missing)"
	}
	out, _ := exec.Command(program, strings.Fields(flags)...).CombinedOutput() // wrk exits with 1
	if _, after, ok := strings.Cut(string(out), "\nVersion "); ok {            // dnsperf has an address before it
		return number(after)
	}
	if v := number(string(out)); v != "" {
		return v
	}
	// Caddy does not know its own where "go install" has made it.
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "(unknown)"
	}
	return number(info.Main.Version)
}

// number is the first number with a dot in a text.
func number(text string) string {
	return regexp.MustCompile(`\d+(\.\d+)+`).FindString(text)
}

// write gives the table as Markdown.
func (t *table) write(w io.Writer) {
	fmt.Fprintf(w, "## %s\n\nLoad: %s.\n\n| |", t.row.title, t.row.load)
	for _, c := range t.row.columns {
		fmt.Fprintf(w, " %s |", c.name)
	}
	fmt.Fprintf(w, "\n| --- |%s\n", strings.Repeat(" ---: |", len(t.row.columns)))
	for p, peer := range t.peers {
		fmt.Fprintf(w, "| %s |", peer.name)
		for c, col := range t.row.columns {
			mid := t.median(p, c)
			if math.IsNaN(mid) { // nothing was measured
				io.WriteString(w, " - |")
				continue
			}
			fmt.Fprintf(w, " "+col.format, mid)
			if col.ratio && p > 0 {
				mid, low, high := t.ratio(p, c)
				fmt.Fprintf(w, " (**%.2f**, %.2f-%.2f)", mid, low, high)
			}
			io.WriteString(w, " |")
		}
		io.WriteString(w, "\n")
	}
	io.WriteString(w, "\n")
	missed := false
	for _, goal := range t.row.targets {
		text, reached := t.verdict(goal)
		io.WriteString(w, text)
		missed = missed || !reached
	}
	if missed && t.profile != "" {
		fmt.Fprintf(w, "\nWhere the CPU time of %s goes:\n\n```\n%s```\n", t.peers[0].name, t.profile)
	}
	io.WriteString(w, "\n")
}

// verdict says whether a target is reached.
func (t *table) verdict(goal target) (text string, reached bool) {
	col := t.row.columns[goal.column]
	if goal.peer == "" {
		got := t.median(0, goal.column)
		reached = got <= goal.limit
		text = fmt.Sprintf("- Target: %s at most %.4g: "+col.format, col.name, goal.limit, got)
	} else {
		p := slices.IndexFunc(t.peers, func(p peer) bool { return p.name == goal.peer })
		if p < 0 {
			return "", true
		}
		got, _, _ := t.ratio(p, goal.column)
		bound := "at most"
		if reached = got <= goal.limit; col.more {
			bound, reached = "at least", got >= goal.limit
		}
		text = fmt.Sprintf("- Target: %s %s %.4gx %s: %.2fx", col.name, bound, goal.limit, goal.peer, got)
	}
	if reached {
		return text + ", reached.\n", true
	}
	return text + ", **missed**.\n", false
}

// median is of a peer's figures in one column.
func (t *table) median(peer, column int) float64 {
	var list []float64
	for _, figures := range t.samples[peer] {
		list = append(list, figures[column])
	}
	return median(list)
}

// ratio is our figure divided by the peer's: the median over the rounds, whose
// measurements met the same machine, and the extremes.
func (t *table) ratio(peer, column int) (mid, low, high float64) {
	var list []float64
	for round, figures := range t.samples[peer] {
		list = append(list, t.samples[0][round][column]/figures[column])
	}
	return median(list), slices.Min(list), slices.Max(list)
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	list = slices.Sorted(slices.Values(list))
	mid := len(list) / 2
	if len(list)%2 == 0 {
		return (list[mid-1] + list[mid]) / 2
	}
	return list[mid]
}
