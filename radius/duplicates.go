package radius

import (
	"net/netip"
	"sync"
	"time"

	layeh "layeh.com/radius"
)

// duplicateWindow is how long answers are kept for those who ask again: as
// RFC 5080 section 2.2.2 has it, 5 seconds or more.
const duplicateWindow = 5 * time.Second

// Bounds of how many are kept, of some 200 bytes each, and of the answers' own
// size; beyond them the oldest go first.
const (
	maxDuplicates     = 1 << 17
	maxDuplicateBytes = 64 << 20
)

// requestKey is what makes two packets the same request.
type requestKey struct {
	from          netip.AddrPort
	code          layeh.Code
	identifier    byte
	authenticator [16]byte
}

func keyOf(from netip.AddrPort, d datagram) requestKey {
	return requestKey{from, d.code(), d.identifier(), [16]byte(d.authenticator())}
}

// answer is what becomes of a request.
type answer struct {
	reply   datagram // nil as long as it is under way
	waiting int      // how often it was asked again meanwhile
}

// maxWaiting bounds how many answers one request can cause at once.
const maxWaiting = 1 << 12

// duplicates holds the requests that are under way, which places bound, and those
// answered in the last seconds.
type duplicates struct {
	mu      sync.Mutex
	answers map[requestKey]*answer
	// answered lists the latter in order, from first on.
	answered []answered
	first    int
	bytes    int // of all replies
}

type answered struct {
	key requestKey
	at  time.Time
}

// begin enters a request. If it is there already, known is true; reply is its
// answer, or nil if that is still to come, and then goes to whoever asked again
// as well.
func (d *duplicates) begin(key requestKey, now time.Time) (reply datagram, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget(now)
	if a := d.answers[key]; a != nil {
		if a.reply == nil && a.waiting < maxWaiting {
			a.waiting++
		}
		return a.reply, true
	}
	if d.answers == nil {
		d.answers = make(map[requestKey]*answer)
	}
	d.answers[key] = &answer{}
	return nil, false
}

// forget drops what is old, or too much.
func (d *duplicates) forget(now time.Time) {
	for d.first < len(d.answered) {
		old := &d.answered[d.first]
		if now.Sub(old.at) <= duplicateWindow && len(d.answered)-d.first < maxDuplicates && d.bytes <= maxDuplicateBytes {
			break
		}
		d.bytes -= len(d.answers[old.key].reply)
		delete(d.answers, old.key)
		d.first++
	}
	if d.first > 1024 && d.first > len(d.answered)/2 {
		d.answered = append(d.answered[:0], d.answered[d.first:]...)
		d.first = 0
	}
}

// finish keeps the answer, and returns how often it is wanted beside the first
// time. Without an answer the request is forgotten: the next one is new.
func (d *duplicates) finish(key requestKey, reply datagram, now time.Time) (again int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.answers[key]
	if a == nil || reply == nil {
		delete(d.answers, key)
		return 0
	}
	a.reply = reply
	d.answered = append(d.answered, answered{key, now})
	d.bytes += len(reply)
	again, a.waiting = a.waiting, 0
	return again
}
