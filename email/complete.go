package email

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// complete makes a user's message what a message has to be (RFC 6409 section 8),
// and keeps users to their own addresses.
func (m *incoming) complete(context.Context) error {
	s := m.s
	if s.user == nil {
		return nil
	}
	from, err := message.From(m.header)
	if err != nil {
		reply := &Reply{Code: 550, Enhanced: [3]int{5, 6, 0}, Text: sentence(err)}
		if !errors.Is(err, message.ErrNoFrom) && !errors.Is(err, message.ErrManyFrom) {
			reply.Text = "The From field cannot be read for sure"
		}
		return s.refuse("content", reply)
	}
	for _, a := range from {
		if address := asciiDomain(a.Local + "@" + a.Domain); !s.user.maySend(address) {
			return m.refuse("sender", 550, 7, 1, fmt.Sprintf("From has <%s>, which is not an address of %s", address, s.user.name))
		}
	}
	env := &m.tx.env
	if !m.header.Has("Date") {
		env.Prefix = fmt.Appendf(env.Prefix, "Date: %s\r\n", env.Arrived.Format(time.RFC1123Z))
	}
	if !m.header.Has("Message-ID") {
		env.Prefix = fmt.Appendf(env.Prefix, "Message-ID: <%s@%s>\r\n", m.id, s.r.s.cfg.Hostname)
	}
	return nil
}
