package spool

import (
	"context"

	"github.com/dcrouter/dcrouter/storage"
)

func OpenStorage(ctx context.Context, st *storage.Store, prefix string, opts Options) (Store, error) {
	return Memory(opts), nil
}
