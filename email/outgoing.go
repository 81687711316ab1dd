package email

import (
	"bufio"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/arc"
	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/dsn"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/sched"
	"github.com/dcrouter/dcrouter/email/internal/transport"
	"github.com/dcrouter/dcrouter/email/internal/warmup"
)

// sendOut sends mail to the servers of its recipients, or to the smart host.
func (r *run) sendOut(ctx context.Context, d *delivery, to place, j *job, list []int) outcome {
	out := outcome{results: make([]result, len(list))}
	var open []int // places in list
	for n, i := range list {
		if res, ok := r.suppressed(d.env, i); ok {
			out.results[n] = res
		} else if j != nil && j.mxErr != nil {
			out.results[n] = mxResult(j.mxErr)
		} else {
			open = append(open, n)
		}
	}
	var ready *transport.Request
	var unused warmup.Grant // what is not in the books yet
	defer func() { r.giveBack(d.env, unused, unused.N) }()
	for len(open) > 0 {
		grant, next := r.permit(d.env, j, len(open))
		if grant.N == 0 {
			for _, n := range open {
				out.results[n] = result{putOff: true}
			}
			out.later = next
			return out
		}
		unused = grant
		if ready == nil { // not sooner: what is put off need not be signed
			var err error
			if ready, err = r.request(ctx, d, to, j); err != nil {
				for _, n := range open {
					out.results[n] = hopResult(err)
				}
				return out
			}
		}
		some := open[:grant.N]
		open = open[grant.N:]
		rcpts := make([]int, len(some))
		for k, n := range some {
			rcpts[k] = list[n]
		}
		req := *ready
		req.Source, req.HELO = grant.Source, grant.HELO
		from := r.returnPath(d, rcpts)
		req.Envelope = d.smtpEnvelope(from, rcpts)
		if from != d.env.From {
			for k := range req.Envelope.To {
				req.Envelope.To[k].Notify = nil // VERP sees to that they come here
			}
		}
		one := r.send(ctx, d, &req)
		unused = warmup.Grant{}
		r.account(d.env, grant, one.results)
		for k, n := range some {
			out.results[n] = one.results[k]
		}
		out.steps = append(out.steps, one.steps...)
		out.site.Works = out.site.Works || one.site.Works
		if one.site.Trouble {
			// The others would have the same trouble.
			out.site = one.site
			for _, n := range open {
				out.results[n] = troubled(one.site)
			}
			return out
		}
	}
	return out
}

// troubled is what becomes of mail to a site that is in trouble.
func troubled(site sched.Outcome) result { return result{said: site.Why, reply: unreachable()} }

// request is what all transactions of a job have in common.
func (r *run) request(ctx context.Context, d *delivery, to place, j *job) (*transport.Request, error) {
	req := &transport.Request{}
	if j != nil && to.domain != "" {
		req.Destination = j.mx
		var err error
		if req.Policy, err = r.policyFor(ctx, j.mx, d.env); err != nil {
			return nil, err
		}
	} else {
		h := r.hopOf(to.route)
		if h.err != nil {
			return nil, h.err
		}
		req.Hop = &h.config
	}
	prefix, err := r.sign(ctx, d, to.route)
	req.Content = d.content(prefix)
	return req, err
}

// mxResult is what becomes of mail to a domain that has no server for it.
func mxResult(err error) result {
	var e *mx.Error
	if !errors.As(err, &e) {
		return result{said: err.Error(), reply: unreachable()}
	}
	res := result{permanent: e.Permanent, said: e.Error(), status: e.Enhanced, reply: unreachable()}
	if e.Permanent {
		res.reply = &Reply{Code: 550, Enhanced: [3]int{5, 1, 2}, Text: "The recipient's domain takes no mail"}
	}
	return res
}

// suppressed keeps mail of ours from going to who is known not to want it, or
// not to be there.
func (r *run) suppressed(env *queued, i int) (result, bool) {
	if env.From == "" || !env.Own && env.User == "" {
		return result{}, false
	}
	s, ok := r.suppressions.Check(env.Recipients[i].Address)
	if !ok {
		return result{}, false
	}
	return result{permanent: true, suppressed: true, status: "5.7.1", said: suppressedText(s)}, true
}

func suppressedText(s Suppression) string {
	text := fmt.Sprintf("not sent: the address is on the suppression list since %s (%s", s.Added.Format(time.DateOnly), s.Reason)
	if s.Detail != "" {
		text += ": " + s.Detail
	}
	return text + ")"
}

// permit asks whether so many recipients may be sent to now, and from which
// address. A grant for none comes with the time to ask again.
func (r *run) permit(env *queued, j *job, n int) (warmup.Grant, time.Time) {
	keys := quotaKeys(env)
	if len(keys) > 0 {
		if next, ok := r.quota.Take(n, keys...); !ok {
			if n > 1 { // rather some than none
				return r.permit(env, j, (n+1)/2)
			}
			return warmup.Grant{}, next
		}
	}
	if j == nil || len(j.mx.Hosts) == 0 {
		return warmup.Grant{N: n}, time.Time{}
	}
	grant, ok := r.sources.Take(warmup.Request{
		Sender: env.From, Provider: r.sources.Provider(j.mx.Hosts[0].Name), Recipients: n,
		Usable: func(source netip.Addr) bool { return j.reaches(source) },
	})
	if !ok {
		grant.N = 0
	}
	if len(keys) > 0 && grant.N < n {
		r.quota.Return(n-grant.N, keys...)
	}
	return grant, grant.Next
}

// reaches reports whether the job's destination has an address of the same family.
func (j *job) reaches(source netip.Addr) bool {
	return slices.ContainsFunc(j.mx.Hosts, func(h mx.Host) bool {
		return slices.ContainsFunc(h.Addrs, func(a netip.Addr) bool { return a.Is4() == source.Is4() })
	})
}

// quotaKeys are what a message counts for: the server and its sender's domain.
// Bounces count for nothing.
func quotaKeys(env *queued) []string {
	if env.From == "" {
		return nil
	}
	_, domain, _ := cutAddress(env.From)
	return []string{"", canonicalDomain(domain)}
}

// account takes what became of recipients into the books, and notes with those who
// have the message in which.
func (r *run) account(env *queued, grant warmup.Grant, results []result) {
	unused := 0
	for i := range results {
		res := &results[i]
		switch {
		case res.ok:
			res.source, res.provider = grant.Source, grant.Provider
			r.sources.Report(grant.Source, grant.Provider, warmup.Delivered, 1)
		case !res.reached:
			unused++
		default:
			r.sources.Report(grant.Source, grant.Provider, failureOf(classify(res.said, res.status), res.permanent), 1)
		}
	}
	r.giveBack(env, grant, unused)
}

// giveBack returns what was granted and not used.
func (r *run) giveBack(env *queued, grant warmup.Grant, n int) {
	if n == 0 {
		return
	}
	r.sources.Return(grant, n)
	if keys := quotaKeys(env); len(keys) > 0 {
		r.quota.Return(n, keys...)
	}
}

func failureOf(c dsn.Class, permanent bool) warmup.Outcome {
	switch {
	case c.Severity == dsn.Block:
		return warmup.Block
	case !permanent:
		return warmup.Deferred
	case c.Severity == dsn.Hard:
		return warmup.HardBounce
	}
	return warmup.SoftBounce
}

// classify tells what a server means with what it said.
func classify(said, status string) dsn.Class {
	f := dsn.Failure{Status: status, Text: said}
	if len(said) > 3 && said[3] == ' ' {
		if _, err := fmt.Sscanf(said[:3], "%d", &f.Code); err == nil {
			f.Text = said[4:]
		}
	}
	return dsn.Classify(f)
}

// returnPath is the sender that bounces for recipients go to.
func (r *run) returnPath(d *delivery, list []int) string {
	if d.env.Bounces != bounceHere || len(list) != 1 {
		return d.env.From
	}
	_, domain, _ := cutAddress(d.env.From)
	address, err := r.returns.verp.Encode(d.id, list[0], canonicalDomain(domain))
	if err != nil {
		r.s.log.Info("a message goes with its own sender", "conn_id", d.env.ConnID, "msg_id", d.id, "err", err)
		return d.env.From
	}
	return address
}

// sign makes what goes in front of a message: the signatures of its author's
// domain, with the keys that are in use now, so that those still hold whose
// mail has waited while keys changed.
func (r *run) sign(ctx context.Context, d *delivery, rt *route) ([]byte, error) {
	if a := rt.Action.Process; a != nil && a.DKIM != nil && !*a.DKIM || !r.vouches(d.env, rt) {
		return nil, nil
	}
	if d.round == nil {
		return r.signature(ctx, d)
	}
	// It is for the other places too, and so must not end with the job for this one.
	d.round.signing.Do(func() { d.round.signature, d.round.signErr = r.signature(r.ctx, d) })
	return d.round.signature, d.round.signErr
}

// vouches reports whether a message is from somebody we know: nobody else gets
// our signature.
func (r *run) vouches(env *queued, rt *route) bool {
	// The route may not be what it was when it took the message.
	return env.Own || env.User != "" || rt.lets(env.ClientAddr)
}

func (r *run) signature(ctx context.Context, d *delivery) ([]byte, error) {
	if err := d.load(); err != nil {
		return nil, err
	}
	header, body, err := d.env.split(d.content(nil))
	if err != nil {
		return nil, err
	}
	from, err := message.From(header)
	if err != nil {
		return nil, nil // not from any one domain
	}
	signers := r.signers(canonicalDomain(asciiHost(from[0].Domain)))
	if len(signers) == 0 {
		return nil, nil
	}
	signed, err := dkim.Sign(ctx, header, body, signers...)
	if err != nil && ctx.Err() == nil {
		r.s.log.Warn("a message could not be signed; it goes without", "conn_id", d.env.ConnID, "msg_id", d.id, "err", err)
		return nil, nil
	}
	return signed, err
}

// split reads the header section of content without more in front. What the server
// has added does not count for how large it may be.
func (q *queued) split(msg *io.SectionReader) (message.Header, *io.SectionReader, error) {
	header, size, err := message.ReadHeader(bufio.NewReader(io.NewSectionReader(msg, 0, msg.Size())), maxHeader+len(q.Prefix))
	if err != nil {
		return nil, nil, err
	}
	return header, io.NewSectionReader(msg, int64(size), msg.Size()-int64(size)), nil
}

// asciiHost is a domain in A-labels, or as it is if it has none.
func asciiHost(domain string) string {
	_, domain, _ = strings.Cut(asciiDomain("x@"+domain), "@")
	return domain
}

// forward hands a message to the server of a route.
func (r *run) forward(ctx context.Context, d *delivery, rt *route, list []int) outcome {
	from := d.env.From
	var seal []byte
	if rt.Action.Forward.SRS {
		var err error
		if seal, err = r.seal(ctx, d, list[0]); err != nil {
			return all(result{said: err.Error(), reply: unreachable()}, list)
		}
		from = r.rewritten(d.env, list[0])
	}
	return r.sendToHop(ctx, d, r.hopOf(rt), seal, from, list)
}

// rewritten is the sender of a message that is forwarded: an address of the
// recipient's domain that leads back to the sender, so that the next server finds
// us entitled to use it (SRS). Those who are ours need none.
func (r *run) rewritten(env *queued, i int) string {
	_, sender, _ := cutAddress(env.From)
	domain := env.Recipients[i].domain()
	if env.From == "" || env.User != "" || r.s.isOurs(sender) || !r.s.isOurs(domain) {
		return env.From
	}
	from, err := r.returns.rewrite(domain, env.From)
	if err != nil {
		r.s.log.Info("a sender could not be rewritten", "err", err)
		return env.From
	}
	return from
}

// seal adds a set to the ARC chain of a message that is forwarded, so that the
// next server can see how it was authenticated here (RFC 8617). What the seal says
// of the chain was found as the message came in: to ask DNS again would have mail
// wait for names that a stranger chose.
func (r *run) seal(ctx context.Context, d *delivery, i int) ([]byte, error) {
	signers := r.signers(d.env.Recipients[i].domain())
	k := slices.IndexFunc(signers, func(s dkim.Signer) bool {
		_, ok := s.Key.Public().(*rsa.PublicKey) // few can verify others in ARC
		return ok
	})
	if k < 0 || d.env.ARC == "" {
		return nil, nil
	}
	header, body, err := d.env.split(d.content(nil))
	if err != nil {
		return nil, err
	}
	b := dkim.NewBody(body)
	b.Want(dkim.Relaxed, -1)
	chain := arc.Result{Status: d.env.ARC, Sets: d.env.ARCSets}
	set, err := arc.Seal(ctx, header, b, r.s.now(), chain, []byte(d.env.Authentication), signers[k])
	if err != nil {
		r.s.log.Info("a message is forwarded without an ARC seal", "conn_id", d.env.ConnID, "msg_id", d.id, "err", err)
		return nil, nil
	}
	return set, nil
}
