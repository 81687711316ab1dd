// Command bench measures our servers and others at the same work, and says how
// they compare; the head of BENCHMARKS.md says how and why.
//
//	go run . -rows http1 -rounds 3 -duration 3s    one row, in half a minute
//	go run . -rows http1 -peers haproxy,nginx      without the others
//	go run . -rows http1 -profile DIR              and a CPU profile of ours
//	go run . -rows http1 -before PROGRAM           and an older build of ours,
//	                                               made by go build ./gateway
//	go run . -out ../../BENCHMARKS.md              everything, as make bench does
//
// It runs on Linux. ./install gets the programs that it needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	// Programs are started from this thread alone, and end with it.
	runtime.LockOSThread()
	b := &bench{idlers: idleConnections(), records: 1_000_000, flood: 1_000_000, progress: os.Stderr}
	flag.IntVar(&b.rounds, "rounds", 5, "how often each server is measured, at least once")
	flag.DurationVar(&b.duration, "duration", 5*time.Second, "length of one measurement, in whole seconds")
	flag.Int64Var(&b.size, "bulk", 1_000_000_000, "`bytes` of a large transfer")
	flag.StringVar(&b.before, "before", "", "an older build of ./gateway, a `program` to compare with")
	flag.StringVar(&b.profiles, "profile", "", "`folder` for CPU profiles of ours")
	names := flag.String("rows", "", "the `rows` to measure, comma-separated (default all)")
	peers := flag.String("peers", "", "the `peers` to compare with, comma-separated, the beginning of a name will do (default all)")
	out := flag.String("out", "", "`file` to write the report into, too")
	flag.Parse()
	if flag.NArg() > 0 || b.rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	b.only = list(*peers)
	if err := run(b, list(*names), *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func run(b *bench, names []string, out string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, path := range []*string{&b.before, &b.profiles, &out} {
		if *path != "" {
			*path, _ = filepath.Abs(*path)
		}
	}
	defer b.close()
	if err := b.open(); err != nil {
		return err
	}
	if b.profiles == "" && out != "" {
		b.profiles = b.dir // the report wants their tops
	}
	rows := b.rows()
	if len(names) > 0 {
		rows = slices.DeleteFunc(rows, func(r row) bool { return !slices.Contains(names, r.name) })
		if len(rows) < len(names) {
			return fmt.Errorf("not every row of %q exists", names)
		}
	}

	// A row that fails is no reason to throw the others away.
	var report strings.Builder
	var problems error
	b.writeHead(&report)
	for i := range rows {
		t, err := b.run(ctx, &rows[i])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Fprintln(b.progress, err)
			problems = errors.Join(problems, err)
			fmt.Fprintf(&report, "## %s\n\nNot measured: %v.\n\n", rows[i].title, err)
			continue
		}
		t.write(&report)
	}
	text := strings.TrimSpace(report.String()) + "\n"
	if _, err := os.Stdout.WriteString(text); err != nil {
		return err
	}
	if out != "" {
		problems = errors.Join(problems, os.WriteFile(out, []byte(text), 0o644))
	}
	return problems
}
