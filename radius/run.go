package radius

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/grace"
)

// run is a Server between one Start and its Stop: sockets and all goroutines.
type run struct {
	s      *Server
	began  time.Time
	ctx    context.Context // ends when what is left at Stop must go
	cancel context.CancelFunc

	auth, acct *socket
	radsec     *radsec // nil without
	journal    *journal

	users   places         // for what waits for the Authorizer
	records places         // for what waits for the accounting sink or the storage
	reading sync.WaitGroup // who brings new requests
	working sync.WaitGroup // who is at them
	keeping sync.WaitGroup // who has to be there until they are done

	loggingIn, reporting atomic.Int64 // requests and records that wait for something

	stopping atomic.Int32  // 1: Stop was called
	quit     chan struct{} // closed then, when nobody brings new requests
	stopped  chan struct{} // closed when Stop is through
	stopErr  error         // what Stop returns; set before stopped is closed

	failOnce sync.Once
	failed   chan struct{} // closed when serving has come to an end by itself
	failErr  error
}

func newRun(s *Server) *run {
	r := &run{
		s:       s,
		began:   time.Now(),
		users:   newPlaces(&s.cfg.Limits),
		records: newPlaces(&s.cfg.Limits),
		quit:    make(chan struct{}),
		stopped: make(chan struct{}),
		failed:  make(chan struct{}),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// open reads what is stored and binds the ports, or takes everything back.
func (r *run) open(ctx context.Context) (err error) {
	s := r.s
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.journal, err = openJournal(ctx, s); err != nil {
		return err
	}
	if r.auth, err = s.listenPacket(ctx, pointedOr(s.cfg.Port, DefaultPort), authService); err != nil {
		return err
	}
	if r.acct, err = s.listenPacket(ctx, pointedOr(s.cfg.AccountingPort, DefaultAccountingPort), acctService); err != nil {
		return err
	}
	if s.cfg.RadSec != nil {
		r.radsec, err = r.listenRadSec(ctx)
	}
	return err
}

// close closes what listens.
func (r *run) close() {
	for _, sock := range []*socket{r.auth, r.acct} {
		if sock != nil {
			sock.conn.Close()
		}
	}
	if r.radsec != nil {
		r.radsec.ln.Close()
	}
}

// serve starts all goroutines. A socket has as many readers as there are
// processors: most answers are made by the one who has read the request.
func (r *run) serve() {
	r.keeping.Go(func() { r.journal.commitAll() })
	r.keeping.Go(func() { r.journal.compactAll() })
	for _, sock := range []*socket{r.auth, r.acct} {
		for range min(runtime.GOMAXPROCS(0), 8) {
			r.reading.Go(func() { r.read(sock) })
		}
	}
	if r.radsec != nil {
		r.reading.Go(r.acceptRadSec)
	}
	r.working.Go(r.sweepSessions)
	r.working.Go(r.probeHomeServers)
}

// fail ends Wait.
func (r *run) fail(err error) {
	r.failOnce.Do(func() {
		r.failErr = err
		close(r.failed)
		r.s.log.Error("serving has come to an end", "err", err)
	})
}

func (r *run) hasStopped() bool {
	select {
	case <-r.stopped:
		return true
	default:
		return false
	}
}

func (r *run) failure() error {
	select {
	case <-r.failed:
		return r.failErr
	default:
		return nil
	}
}

// stopPatience is how long Stop waits for answers where its context has no deadline:
// no NAS waits as long. What does not heed that the end has come is waited for as
// long again.
const stopPatience = 30 * time.Second

// stop is the way out: no new requests, then the end of those under way, then
// the sockets that their answers go through, and the journal that has their
// records.
func (r *run) stop(ctx context.Context) error {
	past := time.Unix(1, 0)
	for _, sock := range []*socket{r.auth, r.acct} {
		sock.conn.SetReadDeadline(past)
	}
	if r.radsec != nil {
		r.radsec.stop()
	}
	close(r.quit)
	done := make(chan struct{})
	go func() { // ends below at the latest, when r.ctx has
		r.reading.Wait()
		r.working.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = r.giveUp(ctx.Err())
	case <-r.ctx.Done(): // another caller of Stop has lost patience
		err = r.giveUp(context.DeadlineExceeded)
	}
	r.cancel()
	hangs := grace.Wait(r.ctx, stopPatience, func() error {
		if r.radsec != nil {
			r.radsec.closeAll()
		}
		if err != nil {
			r.close() // readers of a host's PacketConn may not mind the deadline
			r.journal.cancel()
		}
		<-done
		r.close()
		r.journal.stop()
		r.journal.cancel() // a compaction can begin anew after the next start
		r.keeping.Wait()
		return nil
	})
	if hangs != nil {
		return errors.Join(err, fmt.Errorf("radius: the storage or a function of the host: %w", hangs))
	}
	return err
}

// giveUp says what is not waited for any longer.
func (r *run) giveUp(err error) error {
	return fmt.Errorf("radius: given up: %d logins, and %d accounting records, which are not acknowledged: %w", r.loggingIn.Load(), r.reporting.Load(), err)
}

// isStopping reports whether err is what a reader gets at Stop.
func (r *run) isStopping(err error) bool {
	return r.stopping.Load() != 0 || errors.Is(err, net.ErrClosed)
}
