package radius

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// The sessions are stored as a journal and a state. What changes is appended to
// the journal, one value for all records that came while the one before was
// being written: so a record costs a fraction of a flush of the disk, and a
// lone one waits for nobody. Each shard of the table is a value too, written
// anew now and then; it says up to which entry of the journal it knows, and
// what all of them know is removed from the journal. Entries hold whole
// sessions, so it does no harm to read one twice.
//
// A write that has failed may come through later all the same. So a key is not
// written again after that, nor after a start, which does not know of such writes:
// shards go to the next generation, and the highest counts.
//
//	radius/sessions/journal/{number, 16 hexadecimal digits}
//	radius/sessions/state/{shard, 3 hexadecimal digits}-{generation, 16 hexadecimal digits}
const (
	journalPrefix = "radius/sessions/journal/"
	statePrefix   = "radius/sessions/state/"
)

// The journal is compacted when it is longer than half of the state, or these.
const (
	minCompactBytes   = 8 << 20
	maxJournalEntries = 8192
)

// change is one thing that happens to the table.
type change struct {
	// next is given the session as it is, "" if there is none, and returns
	// what it becomes, "" to leave it alone; or closing is set.
	key     sessionKey
	next    func(old string) string
	closing *closing
	done    chan error
}

// journal makes changes durable. Without storage it only applies them.
type journal struct {
	s     *Server
	store *storage.Store

	ctx    context.Context // ends when Stop does not wait any longer
	cancel context.CancelFunc

	queue   chan *change
	quit    chan struct{} // closed when nobody queues any more
	compact chan struct{} // has an element when it is time

	mu      sync.Mutex
	seq     uint64   // of the last entry
	entries []uint64 // stored ones
	bytes   int      // of them

	generation uint64                // that shards are written as
	stored     [sessionShards]string // the key that each shard is at, or ""
	stateBytes int                   // of all shards when last written
}

func openJournal(ctx context.Context, s *Server) (*journal, error) {
	j := &journal{s: s, store: s.storage(), queue: make(chan *change), quit: make(chan struct{}), compact: make(chan struct{}, 1)}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	if j.store == nil {
		return j, nil // what is in memory stays from one Start to the next
	}
	if err := j.load(ctx); err != nil {
		return nil, fmt.Errorf("radius: reading the stored sessions: %w", err)
	}
	return j, nil
}

// do makes a change and returns when it is durable. If ctx ends before, the
// change may happen or not.
func (j *journal) do(ctx context.Context, c *change) error {
	c.done = make(chan error, 1)
	select {
	case j.queue <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *journal) stop() { close(j.quit) }

// commitAll is the one writer of the journal.
func (j *journal) commitAll() {
	batch := make([]*change, 0, 64)
	for {
		batch = batch[:0]
		select {
		case c := <-j.queue:
			batch = append(batch, c)
		case <-j.quit:
			return
		}
		for more := true; more && len(batch) < 4096; {
			select {
			case c := <-j.queue:
				batch = append(batch, c)
			default:
				more = false
			}
		}
		j.commitInOrder(batch)
	}
}

// commitInOrder commits a batch, in parts where there is an Accounting-On in it:
// what comes after that is to see what it has closed.
func (j *journal) commitInOrder(batch []*change) {
	for len(batch) > 0 {
		n := 1 + slices.IndexFunc(batch, func(c *change) bool { return c.closing != nil })
		if n == 0 {
			n = len(batch)
		}
		err := j.commit(batch[:n])
		for _, c := range batch[:n] {
			c.done <- err
		}
		batch = batch[n:]
	}
}

const (
	entryPut   = 'p' // key, session
	entryClose = 'c' // source, identifier, address, time, cause
)

// commit stores what the changes make of the sessions and then lets it be seen.
// A closing is the last of them.
func (j *journal) commit(batch []*change) error {
	// Within the batch, later changes see earlier ones.
	pending := make(map[sessionKey]string)
	entry := []byte{sessionVersion}
	type step struct {
		key     sessionKey
		encoded string
		closing *closing
	}
	var steps []step
	for _, c := range batch {
		if c.closing != nil {
			entry = appendClosing(entry, c.closing)
			steps = append(steps, step{closing: c.closing})
			continue
		}
		old, ok := pending[c.key]
		if !ok {
			old, _ = j.s.sessions.get(c.key)
		}
		encoded := c.next(old)
		if encoded == "" || encoded == old {
			continue
		}
		pending[c.key] = encoded
		entry = append(append(entry, entryPut), c.key[:]...)
		entry = appendString(entry, encoded)
		steps = append(steps, step{key: c.key, encoded: encoded})
	}
	if len(steps) == 0 {
		return nil
	}
	seq := j.seq + 1
	if j.store != nil {
		err := j.store.Put(j.ctx, journalKey(seq), entry)
		if err == nil {
			err = j.ctx.Err() // the table may be another Start's by now
		}
		if err != nil {
			// It may be there all the same, or come to be there later: so its
			// number is never used again. A start then finds records that nobody
			// was told are safe, below those of what came after.
			j.mu.Lock()
			j.seq = seq
			j.mu.Unlock()
			return err
		}
	}
	for _, step := range steps {
		if step.closing == nil {
			shard := j.s.sessions.shard(step.key)
			shard.mu.Lock()
			j.s.sessions.put(shard, step.key, step.encoded)
			shard.seq = seq
			shard.mu.Unlock()
			continue
		}
		for _, k := range j.s.sessions.byNAS.of(&step.closing.nas) {
			shard := j.s.sessions.shard(k)
			shard.mu.Lock()
			j.s.sessions.close(shard, k, step.closing)
			shard.seq = seq
			shard.mu.Unlock()
		}
	}
	// Not before all of it is in the table: writeState removes entries up to seq.
	j.mu.Lock()
	j.seq = seq
	due := false
	if j.store != nil {
		j.entries = append(j.entries, seq)
		j.bytes += len(entry)
		due = j.bytes > max(minCompactBytes, j.stateBytes/2) || len(j.entries) > maxJournalEntries
	}
	j.mu.Unlock()
	if due {
		select {
		case j.compact <- struct{}{}:
		default:
		}
	}
	return nil
}

func appendClosing(b []byte, c *closing) []byte {
	b = append(b, entryClose)
	b = appendAddr(b, c.source)
	b = appendString(b, c.identifier)
	b = appendAddr(b, c.addr)
	b = binary.AppendUvarint(b, uint64(c.at.UnixMilli()))
	return binary.AppendUvarint(b, uint64(c.cause))
}

func stateKey(shard int, generation uint64) string {
	return statePrefix + fmt.Sprintf("%03x-%016x", shard, generation)
}

func journalKey(seq uint64) string { return journalPrefix + fmt.Sprintf("%016x", seq) }

// compactPause is how long the next compaction waits after one that has failed: the
// journal is as long as before, so every record asks for it.
const compactPause = time.Minute

// compactAll writes the state when the journal has become long.
func (j *journal) compactAll() {
	for {
		select {
		case <-j.compact:
		case <-j.quit:
			return
		}
		err := j.writeState(j.ctx)
		if err == nil || j.ctx.Err() != nil {
			continue
		}
		j.s.log.Error("the sessions' journal could not be compacted; it goes on growing", "err", err)
		select {
		case <-time.After(compactPause):
		case <-j.quit:
			return
		}
	}
}

// writeState stores all shards that have changed, and removes the journal up to
// where it was when that began.
func (j *journal) writeState(ctx context.Context) error {
	j.mu.Lock()
	upTo := j.seq
	j.mu.Unlock()
	total := 0
	for i := range j.s.sessions.shards {
		if err := ctx.Err(); err != nil {
			return err
		}
		shard := &j.s.sessions.shards[i]
		shard.mu.Lock()
		if !shard.dirty {
			for _, encoded := range shard.entries {
				total += len(encoded)
			}
			shard.mu.Unlock()
			continue
		}
		// An entry after upTo that is half applied to this shard is applied
		// again after a crash: so the shard claims no more than upTo.
		value := binary.AppendUvarint([]byte{sessionVersion}, min(shard.seq, upTo))
		for k, encoded := range shard.entries {
			value = appendString(append(value, k[:]...), encoded)
		}
		shard.dirty = false
		shard.mu.Unlock()
		total += len(value)
		key := stateKey(i, j.generation)
		if err := j.store.Put(ctx, key, value); err != nil {
			shard.mu.Lock()
			shard.dirty = true
			shard.mu.Unlock()
			j.generation++
			return err
		}
		if old := j.stored[i]; old != "" && old != key {
			if err := j.store.Delete(ctx, old); err != nil {
				return err
			}
		}
		j.stored[i] = key
	}
	j.mu.Lock()
	j.stateBytes = total
	gone := 0
	for gone < len(j.entries) && j.entries[gone] <= upTo {
		gone++
	}
	old := slices.Clone(j.entries[:gone])
	j.entries = slices.Delete(j.entries, 0, gone)
	j.bytes = 0
	j.mu.Unlock()
	for _, seq := range old {
		if err := j.store.Delete(ctx, journalKey(seq)); err != nil {
			return err // a start reads it once more, which does no harm
		}
	}
	return nil
}

// load reads the state and then the journal.
func (j *journal) load(ctx context.Context) error {
	table := j.s.sessions
	table.clear()
	if err := j.findState(ctx); err != nil {
		return err
	}
	for i, key := range j.stored {
		if key == "" {
			continue
		}
		value, err := j.store.Get(ctx, key)
		if err == nil {
			err = j.loadShard(i, value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		j.stateBytes += len(value)
		j.seq = max(j.seq, table.shards[i].seq)
	}
	for key, err := range j.store.List(ctx, journalPrefix) {
		if err != nil {
			return err
		}
		seq, err := strconv.ParseUint(strings.TrimPrefix(key, journalPrefix), 16, 64)
		if err != nil {
			continue // not ours
		}
		value, err := j.store.Get(ctx, key)
		if err == nil {
			err = j.replay(seq, value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		j.entries = append(j.entries, seq)
		j.bytes += len(value)
		j.seq = max(j.seq, seq)
	}
	// Numbers that were used before this start without anything to be found may
	// come to be found yet: they are of an earlier time.
	now := uint64(max(0, time.Now().UnixNano()))
	j.seq = max(j.seq, now)
	j.generation = max(j.generation+1, now)
	return nil
}

// findState looks up at which key each shard is, and removes what late writes have
// left of earlier generations.
func (j *journal) findState(ctx context.Context) error {
	for key, err := range j.store.List(ctx, statePrefix) { // in order
		if err != nil {
			return err
		}
		shard, generation, _ := strings.Cut(strings.TrimPrefix(key, statePrefix), "-")
		i, err := strconv.ParseUint(shard, 16, 16)
		if err != nil || i >= sessionShards {
			continue // not ours
		}
		number, err := strconv.ParseUint(generation, 16, 64)
		if err != nil && generation != "" {
			continue
		}
		if old := j.stored[i]; old != "" {
			j.store.Delete(ctx, old) // if it stays, the next start finds it again
		}
		j.stored[i] = key
		j.generation = max(j.generation, number)
	}
	return nil
}

func (j *journal) loadShard(i int, value []byte) error {
	d := decoder{s: string(value)}
	if len(value) == 0 || value[0] != sessionVersion {
		return errBadSession
	}
	d.s = d.s[1:]
	shard := &j.s.sessions.shards[i]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.seq = d.number()
	now := time.Now()
	for d.s != "" && !d.bad {
		k, encoded, ok := d.session()
		if !ok {
			return errBadSession
		}
		if h := decodeHead(encoded); !h.isOver(now) {
			j.s.sessions.put(shard, k, encoded)
		}
	}
	shard.dirty = false
	return nil
}

// session reads a key and a whole session.
func (d *decoder) session() (k sessionKey, encoded string, ok bool) {
	if len(d.s) < len(k) {
		return k, "", false
	}
	copy(k[:], d.s)
	d.s = d.s[len(k):]
	encoded = strings.Clone(d.text()) // not to keep all of what it is a part of
	_, err := decodeSession(encoded)
	return k, encoded, err == nil
}

// replay applies an entry to the shards that do not know it yet.
func (j *journal) replay(seq uint64, value []byte) error {
	if len(value) == 0 || value[0] != sessionVersion {
		return errBadSession
	}
	table := j.s.sessions
	apply := func(shard *sessionShard, f func()) {
		shard.mu.Lock()
		defer shard.mu.Unlock()
		if shard.seq < seq {
			f()
		}
	}
	d := decoder{s: string(value[1:])}
	for d.s != "" {
		kind := d.s[0]
		d.s = d.s[1:]
		switch kind {
		case entryPut:
			k, encoded, ok := d.session()
			if !ok {
				return errBadSession
			}
			shard := table.shard(k)
			apply(shard, func() { table.put(shard, k, encoded) })
		case entryClose:
			c := closing{nas: nas{source: d.addr(), identifier: d.text(), addr: d.addr()}, at: d.time(), cause: uint32(d.number())}
			if d.bad {
				return errBadSession
			}
			for _, k := range table.byNAS.of(&c.nas) {
				shard := table.shard(k)
				apply(shard, func() { table.close(shard, k, &c) })
			}
		default:
			return errBadSession
		}
	}
	for i := range table.shards {
		apply(&table.shards[i], func() { table.shards[i].seq = seq })
	}
	return nil
}
