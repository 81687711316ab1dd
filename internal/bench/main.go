// Command bench measures our proxy and other servers at the same work, and
// says how they compare; see the head of BENCHMARKS.md for how and why.
//
//	go run . -rows http1 -rounds 3 -duration 3s     one row, in half a minute
//	go run . -rows http1 -peers haproxy,nginx       without the others
//	go run . -rows http1 -profile DIR               and CPU profiles of ours
//	go run . -out ../../BENCHMARKS.md               everything, as make bench does
//
// It runs on Linux. The programs that it needs come with ./install.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	// Programs are started from this thread alone, and end with it.
	runtime.LockOSThread()
	b := &bench{progress: os.Stderr}
	flag.IntVar(&b.rounds, "rounds", 5, "rounds to measure")
	flag.DurationVar(&b.duration, "duration", 5*time.Second, "length of one measurement")
	flag.StringVar(&b.profiles, "profile", "", "`folder` for CPU profiles of ours")
	rows := flag.String("rows", "", "names of the `rows` to measure, comma-separated; all if empty")
	peers := flag.String("peers", "", "names of the `peers` to compare with, comma-separated; all if empty")
	out := flag.String("out", "", "`file` to write the report into, too")
	flag.Parse()
	b.only = list(*peers)
	if err := run(b, list(*rows), *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(b *bench, names []string, out string) error {
	defer b.close()
	if err := b.open(); err != nil {
		return err
	}
	rows := b.rows()
	for _, name := range names {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.name == name }) {
			return fmt.Errorf("no row is called %q", name)
		}
	}
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	var text strings.Builder
	for _, r := range rows {
		if len(names) > 0 && !slices.Contains(names, r.name) {
			continue
		}
		t, err := b.run(&r)
		select {
		case <-interrupt:
			return fmt.Errorf("interrupted")
		default:
		}
		if err != nil {
			return err
		}
		t.write(&text)
	}
	fmt.Print(text.String())
	if out != "" {
		return os.WriteFile(out, []byte(text.String()), 0o644)
	}
	return nil
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}
