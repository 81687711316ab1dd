package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
)

// MaxMeta is the greatest length in bytes of an envelope and of a state.
const MaxMeta = 1 << 20

// The errors of this package; what a call returns wraps them.
var (
	// ErrFull: there is no room, or too little to be safe. It passes when
	// messages leave or somebody makes room (452 or 4.3.1).
	ErrFull = errors.New("the spool is full")
	// ErrNotFound: no message has this ID.
	ErrNotFound = errors.New("no such message")
	// ErrExists: a message has this ID already.
	ErrExists = errors.New("a message with this ID exists already")
	// ErrTooLarge: an envelope or a state is longer than MaxMeta.
	ErrTooLarge = errors.New("longer than 1 MiB")
	// ErrInvalidID: the ID is not one that NewID makes.
	ErrInvalidID = errors.New("not a message ID of the spool")
	// ErrDamaged: what is stored of the message is not what was written.
	ErrDamaged = errors.New("the stored message is damaged")
	// ErrDraft: the draft is of another store, was added or discarded, or a
	// Write to it failed.
	ErrDraft = errors.New("not a draft that can be added")
	// ErrInUse: another process, or another Store here, has the spool open.
	ErrInUse = errors.New("the spool is in use")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the spool is closed")
	// ErrVersion: the spool was written by a newer version.
	ErrVersion = errors.New("the spool has a format that this version does not know; run the version that wrote it, or a newer one")
)

func notFound(id ID) error { return fmt.Errorf("%w: %s", ErrNotFound, id) }

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// isEnd tells errors after which there is no sense in asking for more.
func isEnd(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrClosed)
}

func checkMeta(what string, b []byte) error {
	if len(b) > MaxMeta {
		return fmt.Errorf("the %s of %d bytes is %w", what, len(b), ErrTooLarge)
	}
	return nil
}

// Store keeps messages. Its methods may be called concurrently.
//
// Contexts bound waiting and the reads and writes of a backend. What has been
// handed to the log's writer is waited for all the same, because only then is
// it known whether it happened.
//
// After an error of SetState or Remove the old or the new may be there after a
// restart, until a later call succeeds. After an error of Add the message may
// be there after a crash.
type Store interface {
	// Draft begins a message. ErrFull if there is no headroom.
	Draft(ctx context.Context) (*Draft, error)

	// Add makes the content of d a message. When it returns nil the message
	// is durable. The ID must be fresh from [NewID]. The draft is consumed in
	// any case. envelope is opaque and at most MaxMeta long, and is not kept
	// after the return.
	Add(ctx context.Context, id ID, envelope []byte, d *Draft) error

	// SetState replaces the part of a message that changes; a new message has
	// none. When it returns nil the state is durable. ErrNotFound if the
	// message is not there. state is opaque and at most MaxMeta long, and is
	// not kept after the return.
	SetState(ctx context.Context, id ID, state []byte) error

	// Remove forgets a message, durably. ErrNotFound if it is not there.
	// Bodies that are open stay readable.
	Remove(ctx context.Context, id ID) error

	// Get returns a message without its body. ErrNotFound, ErrDamaged.
	Get(ctx context.Context, id ID) (Message, error)

	// Body opens the content of a message, whose checksum it verifies. Close
	// it. ErrNotFound, ErrDamaged. With a backend ctx holds for reading too.
	Body(ctx context.Context, id ID) (*Body, error)

	// All yields every message, oldest ID first: those that are there at the
	// call and are not removed before their turn. An error is about the one
	// message whose ID comes with it, and the next one follows; an error
	// without an ID ends it.
	All(ctx context.Context) iter.Seq2[Message, error]

	Stats() Stats

	// Close waits for what is under way, at most as long as ctx lives, and
	// gives the spool free. Later calls return ErrClosed; bodies that are open
	// stay readable. It may be called more than once.
	Close(ctx context.Context) error
}

// Message is a message without its body.
type Message struct {
	ID       ID
	Envelope []byte // as given to Add
	State    []byte // as given to SetState last; nil if never
	Size     int64  // of the body, in bytes
}

// Body is the content of a message.
type Body struct {
	*io.SectionReader
	once  sync.Once
	close func() error
	err   error
}

func newBody(r io.ReaderAt, off, size int64, close func() error) *Body {
	return &Body{SectionReader: io.NewSectionReader(r, off, size), close: close}
}

// Close gives back what reading took. It may be called more than once.
func (b *Body) Close() error {
	b.once.Do(func() { b.err = b.close() })
	return b.err
}

// Options are what the stores can be told. The zero value will do.
type Options struct {
	// Logger is told what no caller waits for: damage found, files that could
	// not be removed. The default discards it.
	Logger *slog.Logger

	// Headroom is how many bytes must be free on the disk for a draft to
	// begin, and to go on when it has become large. The default is 256 MiB:
	// twice the largest message that a server usually takes, a segment, and
	// some for the rest of the machine. Negative: none. Only the log has it.
	Headroom int64

	// MaxBytes bounds what messages take up together, in bytes: once it is
	// reached no draft begins. That of Memory counts drafts too. The default is
	// 256 MiB for Memory and none for the others.
	MaxBytes int64

	// DraftMemory bounds the memory of all drafts together, in bytes; what is
	// more goes to files, or to the backend, for which each draft has 16 KiB
	// besides. The default is 32 MiB. Memory has only MaxBytes.
	DraftMemory int64

	// OnLost is called at most once, when the store cannot go on because somebody
	// else has opened the spool: all calls fail from then on. Only that of
	// OpenStorage can be lost.
	OnLost func(error)

	// SegmentSize is the size of a segment of the log in bytes, from 16 KiB
	// to 1 GiB. The default is 64 MiB. Segments may have different sizes.
	SegmentSize int64
}

// Stats is a snapshot of a store's counters. What a kind of store does not
// have is zero.
type Stats struct {
	Messages int64 // now
	Bytes    int64 // of their bodies
	Drafts   int64 // open ones

	// Unusable is why all calls fail at present, nil if they do not.
	Unusable error

	// Of the log's files.
	Segments  int64 // files, with the spare one
	DiskBytes int64 // size of the segments
	LiveBytes int64 // of it, what is needed; the rest is free or dead

	// Since the store was opened.
	Added, Removed, StateChanges uint64
	Batches                      uint64 // that were written; each costs one flush
	Records                      uint64 // in them
	LargestBatch                 uint64 // in records
	WriteErrors                  uint64 // batches that failed
	Moved                        uint64 // messages that cleaning copied
	Cleaned                      uint64 // segments that were given back
	Damaged                      uint64 // places found damaged, messages that could not be read
}
