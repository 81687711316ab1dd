package radius

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/storage"
)

// A write that the storage has given up may come through later. It replaces no
// record that was acknowledged meanwhile, also by a Server that was started anew.
func TestLateWriteToTheJournal(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart=", restart), func(t *testing.T) {
			memory := storage.Memory()
			var late func() error
			backend := &putBackend{memory, func(ctx context.Context, key string, value []byte) error {
				if late == nil && strings.HasPrefix(key, journalPrefix) {
					value = slices.Clone(value)
					late = func() error { return memory.Put(context.Background(), key, value) }
					return errors.New("it takes too long")
				}
				return memory.Put(ctx, key, value)
			}}
			s := startServer(t, Config{}, WithStorage(openStore(t, backend)))
			again := func() {
				t.Helper()
				if err := s.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := s.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			silence(t, s, dialServer(t, acctAddr(s)), acct(StatusStart, "lost").encode(t), accountingFailed)
			if restart {
				again()
			}
			ask(t, acctAddr(s), acct(StatusStart, "kept").encode(t), testSecret)
			if err := late(); err != nil {
				t.Fatal(err)
			}
			again()
			if got := openSessions(s); !slices.Contains(got, "kept") {
				t.Errorf("open are %v, without the one that was acknowledged", got)
			}
		})
	}
}

// putBackend is a Backend with another Put.
type putBackend struct {
	storage.Backend
	put func(ctx context.Context, key string, value []byte) error
}

func (b *putBackend) Put(ctx context.Context, key string, value []byte) error {
	return b.put(ctx, key, value)
}
