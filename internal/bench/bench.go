package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
)

// warmUp is how long every server is under load before the first round.
const warmUp = 2 * time.Second

// bench is one run of the benchmark.
type bench struct {
	rounds   int
	duration time.Duration // of one measurement
	size     int64         // of a large transfer
	idlers   int           // connections to hold
	records  int           // in a large zone of DNS
	flood    int           // questions of DNS that nobody has asked before
	only     []string      // peers; all if empty
	before   string        // an older build of ours to compare with, if any
	profiles string        // folder for CPU profiles of ours, if any
	progress io.Writer

	dir     string
	cert    certificate
	backend *backend
	source  *bulkSource
	gateway string            // the program of ours
	zones   map[int]*dnsZone  // by number of names
	names   *dnsserver.Server // that mail servers ask, nil before one does
	sink    *mailSink         // that mail servers send to, nil before one does
}

// open prepares everything that all rows share.
func (b *bench) open() (err error) {
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	if err = os.Chmod(b.dir, 0o755); err != nil { // servers drop root
		return err
	}
	if b.cert, err = newCertificate(b.dir); err != nil {
		return err
	}
	if b.gateway, err = build(b.dir); err != nil {
		return err
	}
	dir, err := b.folder("backend")
	if err != nil {
		return err
	}
	if b.backend, err = startBackend(dir, b.cert); err != nil {
		return err
	}
	b.source, err = newBulkSource(b.size)
	return err
}

func (b *bench) close() {
	if b.backend != nil {
		b.backend.proc.stop()
	}
	if b.source != nil {
		b.source.ln.Close()
	}
	if b.sink != nil {
		b.sink.proc.stop()
	}
	if b.names != nil {
		b.names.Stop(context.Background())
	}
	os.RemoveAll(b.dir)
}

func (b *bench) folder(name string) (string, error) {
	return os.MkdirTemp(b.dir, name)
}

// build compiles our server.
func build(dir string) (string, error) {
	path := filepath.Join(dir, "gateway")
	out, err := exec.Command("go", "build", "-o", path, "github.com/dcrouter/dcrouter/internal/bench/gateway").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building ours: %w: %s", err, out)
	}
	return path, nil
}

// server is a running server under test.
type server struct {
	peer
	site
	proc   *process
	loaded time.Time // when it has given its first right answer, of DNS
}

func (b *bench) start(r *row, p peer) (*server, error) {
	program, err := find(p.program)
	if err != nil {
		return nil, err
	}
	s := &server{peer: p, site: site{front: r.front, backend: r.backend, cert: b.cert}}
	var errs [3]error
	s.dir, errs[0] = b.folder("server")
	s.port, errs[1] = freePort()
	s.control, errs[2] = freePort()
	if r.front.isDNS() {
		var err error
		if s.zone, err = b.zone(r.names); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	args, err := p.setup(s.site)
	if err != nil {
		return nil, err
	}
	if s.proc, err = start(s.dir, loopback(s.port), program, args...); err != nil {
		return nil, err
	}
	if s.front.isDNS() {
		if err := b.waitForZone(s); err != nil {
			s.proc.stop()
			return nil, err
		}
	}
	if s.routes > 0 {
		if _, _, err := s.apply(s.routes, 0); err != nil {
			s.proc.stop()
			return nil, err
		}
	}
	return s, nil
}

func (s *server) url() string {
	if s.front == dnsHTTPS {
		return fmt.Sprintf("https://localhost:%d/dns-query", s.port)
	}
	if s.front == tlsHTTP || s.front == tcpByName {
		return fmt.Sprintf("https://localhost:%d/", s.port)
	}
	return fmt.Sprintf("http://%s/", loopback(s.port))
}

// cpuOf returns the CPU time that the server uses while work runs.
func (s *server) cpuOf(work func() error) (time.Duration, error) {
	before, err := cpuTime(s.proc.pid)
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := cpuTime(s.proc.pid)
	return after - before, err
}

// A table is what was measured in one row.
type table struct {
	row     *row
	peers   []peer
	samples [][][]float64 // by peer, round and column
	profile string        // where the CPU time of the first peer went, if asked for
}

// run measures one row: all servers under the same load, one after another,
// and that again for each round, so that what else happens on the machine
// meets all of them.
func (b *bench) run(ctx context.Context, r *row) (*table, error) {
	t := &table{row: r}
	for i, p := range r.peers {
		if i == 0 || p.program == b.gateway || p.program == b.before || b.wanted(p.name) {
			t.peers = append(t.peers, p)
		}
	}
	t.samples = make([][][]float64, len(t.peers))
	servers := make([]*server, len(t.peers))
	defer func() {
		for _, s := range servers {
			if s != nil {
				s.proc.stop()
			}
		}
	}()
	measure := func(i int, d time.Duration) (figures []float64, err error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if servers[i] == nil {
			if servers[i], err = b.start(r, t.peers[i]); err != nil {
				return nil, err
			}
		}
		figures, err = r.measure(servers[i], d)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", r.name, t.peers[i].name, err)
		}
		if r.fresh {
			servers[i].proc.stop()
			servers[i] = nil
		}
		return figures, nil
	}
	if !r.fresh {
		for i := range servers {
			if _, err := measure(i, min(b.duration, warmUp)); err != nil {
				return nil, err
			}
		}
	}
	for round := range b.rounds {
		for i := range servers {
			i := (i + round) % len(servers) // nobody always comes first
			figures, err := measure(i, b.duration)
			if err != nil {
				return nil, err
			}
			t.samples[i] = append(t.samples[i], figures)
			fmt.Fprintf(b.progress, "%s, round %d, %s: %s\n", r.name, 1+round, t.peers[i].name, r.format(figures))
		}
	}
	if b.profiles != "" && !r.fresh && !r.unprofiled {
		var err error
		if t.profile, err = b.profile(r, servers[0]); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// wanted says whether a peer was asked for.
func (b *bench) wanted(peer string) bool {
	if len(b.only) == 0 {
		return true
	}
	for _, name := range b.only {
		if strings.HasPrefix(strings.ToLower(peer), strings.ToLower(name)) {
			return true
		}
	}
	return false
}

// format writes a row's figures with what they are.
func (r *row) format(figures []float64) string {
	var parts []string
	for i, c := range r.columns {
		parts = append(parts, fmt.Sprintf(c.format+" %s", figures[i], c.name))
	}
	return strings.Join(parts, ", ")
}
