package email

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"github.com/dcrouter/dcrouter/email/internal/deliver"
	"github.com/dcrouter/dcrouter/internal/glob"
)

// maildirs are the mailboxes of routes with the action Deliver.
type maildirs struct {
	s    *Server
	base string // of mailboxes that no route names; "" is none
	mu   sync.Mutex
	made map[string]*deliver.Maildir // by template
}

func newMaildirs(s *Server) (*maildirs, error) {
	m := &maildirs{s: s, made: make(map[string]*deliver.Maildir)}
	if s.cfg.DataPath == "" {
		return m, nil
	}
	path, err := filepath.Abs(s.cfg.DataPath)
	m.base = filepath.Join(path, "mail", "{domain}", "{user}")
	return m, err
}

// deliver puts a message into a mailbox. Case makes no other mailbox of a local
// part, as it makes no other route (RFC 5321 section 2.4 has mail servers in front
// keep it, and leaves it to the last one what it means).
func (m *maildirs) deliver(ctx context.Context, rt *route, user, domain string, content *io.SectionReader) error {
	template := m.base
	if d := rt.Action.Deliver; d != nil && d.Maildir != "" {
		template = d.Maildir
	}
	if template == "" {
		return fmt.Errorf("there is no place for mailboxes: give the route deliver.maildir, the configuration dataPath, or the host a Mailbox")
	}
	box, err := m.box(template)
	if err != nil {
		return err
	}
	_, err = box.Deliver(ctx, strings.ToLower(glob.Fold(user)), domain, nil, content)
	return err
}

func (m *maildirs) box(template string) (*deliver.Maildir, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if box := m.made[template]; box != nil {
		return box, nil
	}
	path, err := filepath.Abs(template)
	if err != nil {
		return nil, err
	}
	t, err := deliver.ParseTemplate(path)
	if err != nil {
		return nil, err
	}
	box := deliver.NewMaildir(t, m.s.cfg.Hostname, m.s.now)
	m.made[template] = box
	return box, nil
}
