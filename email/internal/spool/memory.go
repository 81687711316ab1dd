package spool

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
)

// Memory returns a store that forgets everything when the process ends. It is
// for tests, and for hosts without any storage.
func Memory(opts Options) Store {
	m := &memory{messages: make(map[key]*memoryMessage)}
	m.drafts.memory.max = cmp.Or(opts.MaxBytes, 256<<20)
	m.drafts.perDraft = m.drafts.memory.max
	m.drafts.room = func() error {
		if used := m.drafts.memory.used.Load(); used >= m.drafts.memory.max {
			return fmt.Errorf("%w: %d bytes are in memory", ErrFull, used)
		}
		return nil
	}
	return m
}

type memory struct {
	drafts draftPool // its memory is that of messages too

	mu       sync.Mutex
	messages map[key]*memoryMessage
	stats    Stats
	closed   bool
}

type memoryMessage struct {
	envelope, state []byte
	body            *content
}

// begin checks what every method checks, and locks if the error is nil.
func (m *memory) begin(ctx context.Context, id ID) (key, error) {
	if err := ctx.Err(); err != nil {
		return key{}, err
	}
	k, err := id.key()
	if err != nil {
		return key{}, err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return key{}, ErrClosed
	}
	return k, nil
}

func (m *memory) Draft(ctx context.Context) (*Draft, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	return m.drafts.draft(ctx)
}

func (m *memory) Add(ctx context.Context, id ID, envelope []byte, d *Draft) (err error) {
	c, err := m.drafts.take(d)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.discard()
		}
	}()
	if err := checkMeta("envelope", envelope); err != nil {
		return err
	}
	k, err := m.begin(ctx, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.messages[k] != nil {
		return fmt.Errorf("%w: %s", ErrExists, id)
	}
	if !m.drafts.memory.take(int64(len(envelope))) {
		return ErrFull
	}
	m.messages[k] = &memoryMessage{envelope: bytes.Clone(envelope), body: c}
	m.stats.Added++
	m.stats.Bytes += c.size
	return nil
}

func (m *memory) SetState(ctx context.Context, id ID, state []byte) error {
	if err := checkMeta("state", state); err != nil {
		return err
	}
	k, err := m.begin(ctx, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	msg := m.messages[k]
	if msg == nil {
		return notFound(id)
	}
	// A state is taken even when memory is full: without it nothing leaves.
	m.drafts.memory.used.Add(int64(len(state) - len(msg.state)))
	msg.state = bytes.Clone(state)
	m.stats.StateChanges++
	return nil
}

func (m *memory) Remove(ctx context.Context, id ID) error {
	k, err := m.begin(ctx, id)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	msg := m.messages[k]
	if msg == nil {
		return notFound(id)
	}
	delete(m.messages, k)
	m.stats.Removed++
	m.stats.Bytes -= msg.body.size
	m.drafts.memory.give(int64(len(msg.envelope) + len(msg.state) + cap(msg.body.mem)))
	return nil
}

func (m *memory) Get(ctx context.Context, id ID) (Message, error) {
	k, err := m.begin(ctx, id)
	if err != nil {
		return Message{}, err
	}
	defer m.mu.Unlock()
	msg := m.messages[k]
	if msg == nil {
		return Message{}, notFound(id)
	}
	return Message{ID: id, Envelope: bytes.Clone(msg.envelope), State: bytes.Clone(msg.state), Size: msg.body.size}, nil
}

func (m *memory) Body(ctx context.Context, id ID) (*Body, error) {
	k, err := m.begin(ctx, id)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	msg := m.messages[k]
	if msg == nil {
		return nil, notFound(id)
	}
	return newBody(bytes.NewReader(msg.body.mem), 0, msg.body.size, func() error { return nil }), nil
}

func (m *memory) All(ctx context.Context) iter.Seq2[Message, error] {
	return all(ctx, m, func() ([]key, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.closed {
			return nil, ErrClosed
		}
		keys := make([]key, 0, len(m.messages))
		for k := range m.messages {
			keys = append(keys, k)
		}
		return keys, nil
	})
}

// all is Store.All for every kind of store.
func all(ctx context.Context, s Store, keys func() ([]key, error)) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		list, err := keys()
		if err != nil {
			yield(Message{}, err)
			return
		}
		slices.SortFunc(list, key.compare)
		for _, k := range list {
			msg, err := s.Get(ctx, k.id())
			switch {
			case err == nil:
			case isNotFound(err): // removed meanwhile
				continue
			case isEnd(ctx, err):
				yield(Message{}, err)
				return
			default:
				msg.ID = k.id()
			}
			if !yield(msg, err) {
				return
			}
		}
	}
}

func (m *memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Messages, s.Drafts = int64(len(m.messages)), m.drafts.open.Load()
	return s
}

func (m *memory) Close(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.messages = nil
	return nil
}
