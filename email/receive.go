package email

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth"
	"github.com/dcrouter/dcrouter/email/internal/auth/authres"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/spf"
	"github.com/dcrouter/dcrouter/email/internal/dmarcrpt"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/email/internal/smtpd"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

const (
	// maxHeader bounds the header section of a message, in bytes.
	maxHeader = 64 << 10
	// maxReceived is how many servers a message may have come through (RFC 5321
	// section 6.3).
	maxReceived = 50
)

// incoming is a message whose content has come, until it is decided about.
type incoming struct {
	s     *session
	tx    *transaction
	id    spool.ID
	draft *spool.Draft
	body  *io.SectionReader // all that came

	header     message.Header
	headerSize int
	auth       *auth.Result // nil if the sender needs no proof
	quarantine string       // why it is to be held back
}

// Data takes the content and brings it to where it goes. Its reply is the
// promise that none of it is lost.
func (s *session) Data(ctx context.Context, r io.Reader) (*smtpd.Reply, error) {
	m := &incoming{s: s, tx: s.tx, id: spool.NewID(s.r.s.now())}
	m.tx.env.Arrived = s.r.s.now().UTC()
	s.asks = m.about()
	m.draft = s.tx.draft
	in := &bitCheck{r: r}
	buf := s.r.buffers.Get().(*[]byte)
	_, err := io.CopyBuffer(m.draft, in, *buf)
	s.r.buffers.Put(buf)
	if err != nil {
		if in.err != nil {
			return nil, in.err // of the client, who knows
		}
		return nil, s.storageError(err)
	}
	m.tx.env.EightBit = in.eightBit
	m.body = m.draft.Body()

	for _, step := range []func(context.Context) error{m.read, m.complete, m.authenticate, m.decide, m.scan, m.ask} {
		if err := step(ctx); err != nil {
			s.countRefused(err)
			return nil, err
		}
	}
	reply, err := m.bring(ctx)
	if err != nil {
		s.countRefused(err)
		return nil, err
	}
	return reply, nil
}

func (s *session) countRefused(err error) {
	var reply *smtpd.Reply
	if errors.As(err, &reply) && reply.Temporary() {
		s.r.s.stats.deferred.Add(1)
		return
	}
	s.r.s.stats.refused.Add(1)
}

func (s *session) storageError(err error) error {
	s.r.s.log.Error("a message could not be stored", "conn_id", s.client.ID, "err", err)
	if errors.Is(err, spool.ErrTooLarge) {
		return s.refuse("storage", &Reply{Code: 554, Enhanced: [3]int{5, 5, 3}, Text: "The envelope is too large; send to fewer recipients at once"})
	}
	if errors.Is(err, spool.ErrFull) {
		return s.refuse("storage", &Reply{Code: 452, Enhanced: [3]int{4, 3, 1}, Text: "Out of space, try again later"})
	}
	return s.refuse("storage", &Reply{Code: 451, Enhanced: [3]int{4, 3, 0}, Text: "The message could not be stored, try again later"})
}

// bitCheck looks for bytes beyond ASCII, and keeps what the client's side fails
// with apart from what ours does.
type bitCheck struct {
	r        io.Reader
	eightBit bool
	err      error
}

func (b *bitCheck) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	var bits byte
	for _, c := range p[:n] {
		bits |= c
	}
	b.eightBit = b.eightBit || bits >= 0x80
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// refuse is session.refuse.
func (m *incoming) refuse(reason string, code, subject, detail int, text string) error {
	return m.s.refuse(reason, &Reply{Code: code, Enhanced: [3]int{code / 100, subject, detail}, Text: text})
}

// read reads the header section.
func (m *incoming) read(context.Context) error {
	var err error
	in := m.s.r.readers.Get().(*bufio.Reader)
	in.Reset(io.NewSectionReader(m.body, 0, m.body.Size()))
	m.header, m.headerSize, err = message.ReadHeader(in, maxHeader)
	in.Reset(nil) // or it would keep the message
	m.s.r.readers.Put(in)
	switch {
	case errors.Is(err, message.ErrHeaderTooLarge):
		return m.refuse("content", 554, 6, 0, fmt.Sprintf("The header is larger than %d bytes", maxHeader))
	case err != nil:
		return m.s.storageError(err)
	}
	if len(m.header) > 0 && int64(m.headerSize) < m.body.Size() {
		var end [4]byte
		if _, err := m.body.ReadAt(end[:], int64(m.headerSize-len(end))); err != nil {
			return m.s.storageError(err)
		}
		if string(end[:]) != "\r\n\r\n" {
			// The header ends with a line that is none of it. Not all readers see it
			// so, and would take what follows for the header, another From as well.
			m.tx.env.Break = int64(m.headerSize)
		}
	}
	if len(m.header.All("Received")) > maxReceived {
		return m.refuse("content", 554, 4, 6, "The message has come through too many servers; it is in a loop")
	}
	env := &m.tx.env
	// Those that do not need SMTPUTF8 can go on to servers without it.
	env.UTF8 = env.UTF8 && (beyondASCII(env.From) || m.headerIsUTF8() ||
		slices.ContainsFunc(env.Recipients, func(r recipient) bool { return beyondASCII(r.Address) }))
	return nil
}

func (m *incoming) headerIsUTF8() bool {
	return slices.ContainsFunc(m.header, func(f message.Field) bool { return beyondASCII(string(f.Raw)) })
}

func beyondASCII(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// authenticate finds out who the message is from. Who has signed in needs no
// proof.
func (m *incoming) authenticate(ctx context.Context) error {
	s := m.s
	env := &m.tx.env
	for _, c := range authres.Forged(m.header, s.r.s.cfg.Hostname) {
		env.Cuts = append(env.Cuts, span{c.Start, c.End})
	}
	if s.user != nil {
		return nil
	}
	size := int64(m.headerSize)
	res := s.r.checker.Check(ctx, auth.Request{
		ClientIP: s.client.Addr, Helo: s.client.Helo, MailFrom: env.From,
		Header: m.header, Body: io.NewSectionReader(m.body, size, m.body.Size()-size),
	})
	m.auth = &res
	m.s.r.s.countAuth(&res)
	env.Prefix = append(env.Prefix, res.Field()...)
	env.Authentication = unfold(res.Value())
	if res.ARC.Sealable() == nil {
		env.ARC, env.ARCSets = res.ARC.Status, res.ARC.Sets
	}
	switch {
	case res.SPF.Code == spf.Pass, res.DMARC.Code == dmarc.Pass, m.tx.routes.knows(s.client.Addr):
	case res.SPF.Code == spf.Fail, res.SPF.Code == spf.SoftFail:
		env.Bounces = bounceNowhere
	default:
		env.tellLess()
	}
	return nil
}

func unfold(value []byte) string {
	return strings.Join(strings.Fields(string(value)), " ")
}

func (s *Server) countAuth(res *auth.Result) {
	s.stats.spf.add(string(res.SPF.Code))
	s.stats.dmarc.add(string(res.DMARC.Code))
	s.stats.arc.add(string(res.ARC.Status))
	if len(res.DKIM) == 0 {
		s.stats.dkim.add("none")
	}
	for _, v := range res.DKIM {
		s.stats.dkim.add(string(v.Result))
	}
}

// decide finds the routes of recipients that the content decides about, and does
// what the author's domain wants done with mail that is not its.
func (m *incoming) decide(ctx context.Context) error {
	tx := m.tx
	for i := range tx.taken {
		t := &tx.taken[i]
		if t.route == nil {
			if err := m.decideOpen(i); err != nil {
				return err
			}
		}
	}
	tx.env.Prefix = append(m.received(), tx.env.Prefix...)
	if m.headerSize == 0 {
		// There is no header, not even an empty one: what comes first must not
		// become part of ours.
		tx.env.Prefix = append(tx.env.Prefix, "\r\n"...)
	}
	if m.auth == nil {
		return nil
	}
	applied := dmarc.None
	defer func() { m.reportDMARC(applied) }()
	if m.auth.DMARC.Policy == dmarc.None || m.auth.DMARC.Policy == "" {
		return nil
	}
	for i, t := range tx.taken {
		_, domain, _ := cutAddress(tx.env.Recipients[i].Address)
		switch policy := m.s.heeds(domain, t.route); {
		case policy == MonitorDMARC:
		case m.auth.DMARC.Code != dmarc.PermError && m.auth.Temporary():
			applied = ""
			return m.refuse("authentication", 451, 7, 1, "The sender could not be authenticated for now, try again later")
		case policy == RejectDMARC && m.auth.DMARC.Policy == dmarc.Reject:
			applied = dmarc.Reject
			if m.auth.DMARC.Code == dmarc.PermError {
				return m.refuse("authentication", 550, 7, 1, sentence(m.auth.DMARC.Err))
			}
			return m.refuse("authentication", 550, 7, 1, fmt.Sprintf("Rejected as the DMARC policy of %s asks", m.auth.DMARC.Domain))
		case m.auth.DMARC.Code == dmarc.PermError:
			m.quarantine = "DMARC: " + m.auth.DMARC.Err.Error()
		default:
			m.quarantine = "DMARC: not authenticated as " + m.auth.DMARC.Domain
		}
	}
	if m.quarantine != "" {
		applied = dmarc.Quarantine
	}
	return nil
}

// reportDMARC counts the message for the report to its author's domain. One that
// was put off, "", comes again.
func (m *incoming) reportDMARC(applied dmarc.Policy) {
	if rpt := m.s.r.dmarcrpt; rpt != nil && applied != "" {
		rpt.Add(dmarcrpt.Message{SourceIP: m.s.client.Addr, MailFrom: m.tx.env.From, Auth: m.auth, Applied: applied})
	}
}

// dmarcPolicy is how far mail to a domain heeds the policies of authors' domains.
func (s *Server) dmarcPolicy(domain string) string {
	if d := s.domain(domain); d != nil && d.DMARC != "" {
		return d.DMARC
	}
	if def := s.cfg.Defaults.DMARC; def != "" {
		return def
	}
	return RejectDMARC
}

// decideOpen finds the route of a recipient by the content.
func (m *incoming) decideOpen(i int) error {
	tx := m.tx
	f := tx.facts
	f.recipient = tx.env.Recipients[i].Address
	if tx.content == nil {
		c, err := tx.routes.contentOf(m.body)
		switch {
		case errors.Is(err, message.ErrTooDeep) || errors.Is(err, message.ErrTooManyParts):
			return m.refuse("content", 554, 6, 0, sentence(err))
		case err != nil:
			return m.s.storageError(err)
		}
		tx.content = c
	}
	f.content = tx.content
	rt, _ := tx.routes.decide(&f)
	if rt != nil {
		m.s.asks.Route = rt.Name
	}
	switch {
	case rt == nil:
		return m.s.refuse("route", &Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "No route takes this message for <" + f.recipient + ">"})
	case rt.Action.Type == Reject:
		return m.s.refuse("route", rejection(&rt.Action))
	case !rt.mayRelay(&f, m.s.r.s.isOurs):
		return m.s.refuse("relay", relayDenied())
	}
	tx.taken[i] = recipientRoute{route: rt}
	tx.env.Recipients[i].Route = rt.Name
	return nil
}

// sentence makes an error one for a client.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// contentOf finds out what the table's routes look at in a message.
func (t *routeTable) contentOf(body *io.SectionReader) (*content, error) {
	c := &content{size: body.Size()}
	var err error
	if t.header {
		c.header, _, err = message.ReadHeader(bufio.NewReader(io.NewSectionReader(body, 0, body.Size())), maxHeader)
	}
	if err == nil && t.attachments {
		c.attachments, err = message.HasAttachments(body, message.Limits{})
	}
	return c, err
}

// received is the field that says how the message came here (RFC 5321 section
// 4.4, RFC 3848, RFC 6531 section 4.3).
func (m *incoming) received() []byte {
	s, env := m.s, &m.tx.env
	protocol := "SMTP"
	if s.conn.ESMTP() {
		protocol = "ESMTP"
	}
	if env.UTF8 {
		protocol = "UTF8SMTP"
	}
	if s.conn.TLS() != nil {
		protocol += "S"
	}
	if s.user != nil {
		protocol += "A"
	}
	name := "unknown"
	if m.auth != nil && m.auth.IPRev.Name != "" {
		name = m.auth.IPRev.Name
	}
	address := s.client.Addr.String()
	if s.client.Addr.Is6() {
		address = "IPv6:" + address
	}
	from := fmt.Sprintf("from %s (%s [%s])", s.client.Helo, name, address)
	if s.user != nil {
		from = fmt.Sprintf("from %s", s.client.Helo) // where users are is nobody's business
	}
	for_ := ""
	if len(env.Recipients) == 1 {
		for_ = "\r\n\tfor <" + env.Recipients[0].Address + ">"
	}
	return fmt.Appendf(nil, "Received: %s\r\n\tby %s with %s id %s%s;\r\n\t%s\r\n",
		from, s.r.s.cfg.Hostname, protocol, m.id, for_, env.Arrived.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
}

// ask asks the host.
func (m *incoming) ask(ctx context.Context) error {
	hook := m.s.r.s.opts.hooks.OnMessage
	if hook == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	env := &m.tx.env
	e := Message{Envelope: m.s.envelope(m.tx), ID: string(m.id), Content: env.content(m.body, nil), Authentication: env.Authentication}
	if res := m.s.r.s.hookResult(hook(ctx, &e), "conn_id", m.s.client.ID, "msg_id", m.id, "hook", "OnMessage"); !res.ok {
		return m.s.refuse("hook", res.reply)
	}
	return nil
}

// bring brings the message to where it goes, or into the spool.
func (m *incoming) bring(ctx context.Context) (*smtpd.Reply, error) {
	s, env := m.s, &m.tx.env
	direct := m.quarantine == ""
	for _, t := range m.tx.taken {
		direct = direct && t.route.Action.Type == Deliver
	}
	env.Quarantine = m.quarantine
	switch {
	case m.quarantine != "":
		if err := m.enqueue(ctx); err != nil {
			return nil, err
		}
		s.r.s.stats.quarantined.Add(1)
		m.event(EventQuarantined, m.quarantine)
	case m.tx.inSession() != nil:
		if err := s.askHop(ctx); err != nil { // about those that the content has decided
			return nil, err
		}
		prefix := s.hop.hop.prefix
		d := &delivery{id: string(m.id), env: env, body: m.body}
		if s.hop.route.Action.Forward.SRS {
			seal, err := s.r.seal(ctx, d, 0)
			if err != nil {
				return nil, s.refuse("next-hop", unreachable())
			}
			prefix = slices.Concat(seal, prefix)
		}
		res := s.handOn(ctx, env.content(m.body, prefix), env)
		if !res.ok {
			return nil, s.refuse("next-hop", res.reply)
		}
		s.r.s.stats.forwarded.Add(uint64(len(env.Recipients)))
		m.accepted(EventDelivered, res.said)
		list := make([]int, len(env.Recipients))
		for i := range list {
			list[i] = i
		}
		s.r.tellSuccess(ctx, d, list, all(res, list).results)
		return &smtpd.Reply{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: res.said}, nil
	case direct:
		return m.deliverNow(ctx)
	default:
		if err := m.enqueue(ctx); err != nil {
			return nil, err
		}
	}
	m.accepted(EventReceived, "")
	return m.promise(), nil
}

func (m *incoming) promise() *smtpd.Reply {
	return &smtpd.Reply{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: "Accepted as " + string(m.id)}
}

// accepted counts the message and tells of it.
func (m *incoming) accepted(kind, said string) {
	st := &m.s.r.s.stats
	st.accepted.Add(1)
	st.bytes.Add(uint64(m.body.Size()))
	for _, t := range m.tx.taken {
		st.routes.add(t.route.Name)
	}
	m.event(kind, said)
}

func (m *incoming) event(kind, said string) {
	e := m.about()
	e.Kind, e.Route, e.Reason = kind, m.tx.taken[0].route.Name, said
	m.s.event(e)
}

// about is what an event shows of the message.
func (m *incoming) about() Event {
	e := Event{MessageID: string(m.id), From: m.tx.env.From}
	for _, r := range m.tx.env.Recipients {
		e.Recipients = append(e.Recipients, r.Address)
	}
	return e
}

// enqueue makes the message durable.
func (m *incoming) enqueue(ctx context.Context) error {
	if err := m.s.r.queue.add(ctx, m.id, &m.tx.env, m.draft, 0); err != nil {
		return m.s.storageError(err)
	}
	return nil
}

// deliverNow puts the message into mailboxes while the client waits, so that it
// is told if they do not take it. Where only some do, the others are tried again
// from the spool: the client can be told but one thing, and what is delivered
// must not come twice.
func (m *incoming) deliverNow(ctx context.Context) (*smtpd.Reply, error) {
	env := &m.tx.env
	d := &delivery{id: string(m.id), env: env, body: m.body}
	groups := make(map[*route][]int)
	for i, t := range m.tx.taken {
		groups[t.route] = append(groups[t.route], i)
	}
	var refused *result
	var later []Event
	rest := *env
	rest.Recipients = nil
	for rt, list := range groups {
		var out outcome
		if err := m.s.r.s.guarded("a delivery", func() error { out = m.s.r.deliver(ctx, d, place{route: rt}, nil, list); return nil }, "conn_id", env.ConnID, "msg_id", m.id); err != nil {
			out = all(localError(err), list)
		}
		results := out.results
		m.s.r.tellSuccess(ctx, d, list, results)
		for n, res := range results {
			switch {
			case res.ok:
				m.s.event(Event{Kind: EventDelivered, MessageID: string(m.id), From: env.From,
					Recipients: []string{env.Recipients[list[n]].Address}, Route: rt.Name, Reason: res.said})
				continue
			case refused == nil || refused.permanent:
				refused = &res // the mildest of them
			}
			rest.Recipients = append(rest.Recipients, env.Recipients[list[n]])
			later = append(later, Event{Kind: EventDeferred, MessageID: string(m.id), From: env.From,
				Recipients: []string{env.Recipients[list[n]].Address}, Route: rt.Name, Reason: res.said})
		}
	}
	if len(rest.Recipients) == len(env.Recipients) {
		return nil, m.s.refuse("mailbox", refused.reply)
	}
	if len(rest.Recipients) > 0 {
		schedule := m.s.r.queue.schedule()
		delay := schedule.delay(1)
		// A client that leaves now would send all of it again.
		lasting, cancel := m.s.r.lasting()
		defer cancel()
		if err := m.s.r.queue.add(lasting, m.id, &rest, m.draft, delay); err != nil {
			return nil, m.s.storageError(err)
		}
		for _, e := range later {
			m.s.r.s.stats.retried.Add(1)
			m.s.event(e)
		}
	}
	m.accepted(EventReceived, "")
	return m.promise(), nil
}
