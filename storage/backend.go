package storage

import (
	"context"
	"iter"
	"time"
)

// Backend is all that a host must write to keep this library's state in a
// place of its own. [Open] turns it into a [*Store], which adds what the
// components need on top.
//
// Keys are canonical (see [CanonicalKey]): slash-separated, no leading slash,
// valid UTF-8, at most [MaxKeyLength] bytes plus 64 that the Store may add.
// Two different keys are two different values, whatever characters they hold:
// a backend whose own names allow fewer characters must escape them without
// loss. "a" and "a/b" may both have values.
//
// Methods are called concurrently. They must honour the context as far as
// they can. A value passed in must not be kept or changed after the call
// returns; a value handed out must not be changed afterwards by the backend.
//
// Package storagetest checks all of this.
type Backend interface {
	// Get returns the value of key. If there is none the error must be
	// ErrNotFound or fs.ErrNotExist in the sense of errors.Is. An empty
	// value is a value.
	Get(ctx context.Context, key string) ([]byte, error)

	// Put sets the value of key. It is atomic: whoever reads during or after
	// the call, or after a crash in the middle of it, sees the old value or
	// the new one, whole. When Put returns nil the value is as durable as
	// this backend makes anything. After an error either value may be there.
	Put(ctx context.Context, key string, value []byte) error

	// Delete removes key and its value, as atomically and durably as Put.
	// Deleting a key that has no value is not an error.
	Delete(ctx context.Context, key string) error

	// List yields the keys at and below prefix: prefix itself if it has a
	// value, and every key that starts with prefix + "/". A prefix that ends
	// in "/" leaves out prefix itself, and the empty prefix means all keys.
	// Every key that exists during the whole call is yielded; one that is
	// put or deleted meanwhile may or may not be. The order is free, and the
	// Store tolerates keys outside the prefix and keys yielded twice, so a
	// search by plain string prefix will do. [MatchPrefix] is the exact rule.
	// After yielding an error List stops.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// Opener is for backends that must be opened before use and closed after it.
// Making the backend then does no I/O. [Open] calls Open once before anything
// else, and [Store.Close] calls Close once after everything else. A backend
// can be opened again after Close. Open of one that is open and cannot be
// shared fails with ErrInUse.
type Opener interface {
	Open(ctx context.Context) error
	Close() error
}

// Revision names one version of one value. It is opaque: compare it with ==
// and hand it back to [Store.CompareAndSwap], nothing else. The empty Revision
// never matches.
type Revision string

// Conditional is for backends that can write under a condition themselves.
// A Store on one without it does the same inside this process.
type Conditional interface {
	// GetRevision is Get that also returns the value's revision. Every write
	// of the key, even of the same bytes, must give it a revision that the
	// key never had before.
	GetRevision(ctx context.Context, key string) ([]byte, Revision, error)

	// Create sets the value of key if it has none, and returns its revision;
	// ErrExists if it has one.
	Create(ctx context.Context, key string, value []byte) (Revision, error)

	// CompareAndSwap replaces the value of key if its revision is still old,
	// and returns the new revision; ErrConflict if it is another, or if the
	// key has no value.
	CompareAndSwap(ctx context.Context, key string, old Revision, value []byte) (Revision, error)
}

// Expirer is for backends that can forget values by themselves. A Store on
// one without it keeps the times of expiry in keys of its own.
type Expirer interface {
	// PutTTL is Put of a value that ceases to exist after ttl, which is
	// positive. Put, Create and CompareAndSwap set a value that stays. From
	// the moment of expiry on, no method may show the value.
	PutTTL(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Expiry returns when the value of key expires, the zero time if never.
	Expiry(ctx context.Context, key string) (time.Time, error)
}

// Watcher is for backends that can report changes, including those made by
// other processes. A Store on one without it reports what went through it.
type Watcher interface {
	// Watch reports the changes at and below prefix from the moment it
	// returns, until ctx ends, which is the last error yielded. A slow
	// consumer must not hold up writers: events for one key may be merged
	// into one, and if they still pile up they may be dropped and replaced by
	// one event of type [EventOverflow]. Values that expire are reported as
	// deleted when the backend collects them, which may be later.
	Watch(ctx context.Context, prefix string) (iter.Seq2[Event, error], error)
}

// Leaser is for backends whose leases hold across processes. A Store on one
// without it grants leases inside this process. The Store waits and renews;
// the backend only needs these three.
type Leaser interface {
	// AcquireLease takes the lease called name for ttl, or fails at once with
	// ErrLocked. The token is greater than every token that was ever given
	// out for this name, also before a restart.
	AcquireLease(ctx context.Context, name string, ttl time.Duration) (token uint64, err error)

	// RenewLease makes the lease last ttl from now, or fails with
	// ErrLeaseLost if token does not hold it any more. One that is over may
	// be renewed as long as nobody else has had it since.
	RenewLease(ctx context.Context, name string, token uint64, ttl time.Duration) error

	// ReleaseLease gives the lease up. If token does not hold it any more
	// nothing happens and the error is nil.
	ReleaseLease(ctx context.Context, name string, token uint64) error
}

// Stater is for backends that know more about a value than its bytes.
type Stater interface {
	// Stat describes the value of key without reading it. Key and Expires
	// need not be filled in. The error is as for Get.
	Stat(ctx context.Context, key string) (Info, error)
}

// Clustered is for backends that several processes, also on several machines,
// may use at once. See [Caps.ClusterSafe].
type Clustered interface {
	ClusterSafe() bool
}
