package email

import (
	"maps"
	"slices"

	"github.com/dcrouter/dcrouter/email/internal/deliver"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/glob"
)

func validateRoutes(check *conf.Checker, routes []Route) {
	first := map[string]int{}
	for i := range routes {
		r, at := &routes[i], check.Index(i)
		at.Field("name").Unique(first, r.Name, "routes", i)
		r.Match.validate(at.Field("match"))
		r.Action.validate(at.Field("action"))
	}
}

func (m *Match) validate(check *conf.Checker) {
	for i, p := range m.Recipients {
		checkPattern(check.Field("recipients").Index(i), p)
	}
	for i, p := range m.Senders {
		if p != "" { // the null sender
			checkPattern(check.Field("senders").Index(i), p)
		}
	}
	check.Field("clientIp").CIDRs(m.ClientIP)
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		at := check.Field("headers").Key(name)
		at.HeaderName(name)
		checkPattern(at, m.Headers[name])
	}
	m.SizeRange.validate(check.Field("sizeRange"))
	if m.Subject != "" {
		checkPattern(check.Field("subject"), m.Subject)
	}
}

func (s *SizeRange) validate(check *conf.Checker) {
	if s.Min < 0 {
		check.Field("min").Errorf("%d is negative", s.Min)
	}
	switch {
	case s.Max < 0:
		check.Field("max").Errorf("%d is negative", s.Max)
	case s.Max != 0 && s.Max < s.Min:
		check.Errorf("no size is at least %d and at most %d", s.Min, s.Max)
	}
}

func checkPattern(check *conf.Checker, pattern string) {
	if pattern == "" {
		check.Errorf("missing: an empty pattern matches nothing; use * for anything")
		return
	}
	if _, err := glob.ParseFold(pattern); err != nil {
		check.Errorf("%v", err)
	}
}

func (a *Action) validate(check *conf.Checker) {
	check.Field("type").OneOf(a.Type, Forward, Process, Deliver, Reject)
	section := func(name string, given bool) *conf.Checker {
		at := check.Field(name)
		if given && a.Type != name && a.Type != "" {
			at.Errorf("belongs to type %s", name)
		}
		return at
	}
	if at := section(Forward, a.Forward != nil); a.Forward != nil {
		a.Forward.validate(at)
	} else if a.Type == Forward {
		at.Errorf("missing: say where to forward to")
	}
	if at := section(Process, a.Process != nil); a.Process != nil && a.Process.Queue != "" {
		at.Field("queue").OneOf(a.Process.Queue, NormalQueue, PriorityQueue)
	}
	if at := section(Deliver, a.Deliver != nil); a.Deliver != nil {
		a.Deliver.validate(at)
	}
	if at := section(Reject, a.Reject != nil); a.Reject != nil {
		a.Reject.validate(at)
	}
}

func (f *ForwardAction) validate(check *conf.Checker) {
	check.Field("host").Host(f.Host)
	validateNextHop(check, f.Port, f.Auth, &f.TLS)
	for _, name := range slices.Sorted(maps.Keys(f.AddHeaders)) {
		check.Field("addHeaders").Key(name).Header(name, f.AddHeaders[name])
	}
}

func (d *DeliverAction) validate(check *conf.Checker) {
	if d.Maildir != "" && d.LMTP != "" {
		check.Errorf("maildir and lmtp exclude each other")
	}
	if d.Maildir != "" {
		check.Field("maildir").Add(deliver.CheckTemplate(d.Maildir))
	}
	check.Field("maildir").Line(d.Maildir)
	if d.LMTP != "" {
		validateSocket(check.Field("lmtp"), d.LMTP)
	}
}

func (r *RejectAction) validate(check *conf.Checker) {
	if r.Code != 0 && (r.Code < 400 || r.Code > 599) {
		check.Field("code").Errorf("%d is not a reply code that refuses (400-599)", r.Code)
	}
	check.Field("message").Line(r.Message)
	if len(r.Message) > 400 {
		// RFC 5321 section 4.5.3.1.5 limits the line to 512 bytes.
		check.Field("message").Errorf("%d bytes do not fit into a reply, the limit is 400", len(r.Message))
	}
}
