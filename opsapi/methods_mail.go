package opsapi

import (
	"context"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

type (
	queueRequest struct {
		State string `json:"state,omitempty" doc:"queued, deferred, quarantine or failed; all by default"`
		pageRequest
	}
	queueResponse struct {
		Messages []QueuedMessage `json:"messages"`
		Next     string          `json:"next,omitempty"`
	}
	messageRequest struct {
		ID string `json:"id"`
	}
	quarantineRequest struct {
		ID     string `json:"id"`
		Reason string `json:"reason,omitempty"`
	}
	suppressionsResponse struct {
		Entries []Suppressed `json:"entries"`
		Next    string       `json:"next,omitempty"`
	}
	suppressRequest struct {
		Address string    `json:"address"`
		Reason  string    `json:"reason,omitempty"`
		Expires time.Time `json:"expires,omitempty" doc:"never by default"`
	}
	addressRequest struct {
		Address string `json:"address"`
	}
	mailDomainsResponse struct {
		Domains []MailDomain `json:"domains"`
	}
)

// Validate wants an id.
func (r *messageRequest) Validate() error { return required([2]string{"id", r.ID}) }

// Validate wants an id.
func (r *quarantineRequest) Validate() error { return required([2]string{"id", r.ID}) }

// Validate wants an address.
func (r *suppressRequest) Validate() error { return validMailbox(r.Address) }

// Validate wants an address.
func (r *addressRequest) Validate() error { return validMailbox(r.Address) }

func validMailbox(address string) error {
	check := conf.NewChecker()
	check.Field("address").Mailbox(address)
	return check.Err()
}

// Validate wants a state that there is.
func (r *queueRequest) Validate() error {
	check := conf.NewChecker()
	check.Field("state").OneOf(r.State, "", StateQueued, StateDeferred, StateQuarantine, StateFailed)
	return check.Err()
}

func (s *Server) registerMail() {
	m := &s.methods
	Handle(m, "getEmailQueue", RoleViewer, s.getQueue, Doc("Lists messages of the mail system."))
	Handle(m, "getEmailMessage", RoleViewer, s.getMessage, Doc("Returns a message and what happened to it, also of one that is finished while it is remembered."))
	act := func(name, doc string, do func(MailQueue, context.Context, string) error) {
		Handle(m, name, RoleOperator, func(ctx context.Context, req messageRequest) (nothing, error) {
			if s.opts.queue == nil {
				return nothing{}, notConfigured("a mail queue is")
			}
			callerFrom(ctx).note("%q", req.ID)
			return nothing{}, do(s.opts.queue, ctx, req.ID)
		}, Doc(doc))
	}
	act("retryEmail", "Has a message tried now.", MailQueue.Retry)
	act("dropEmail", "Removes a message for good.", MailQueue.Drop)
	act("releaseEmail", "Lets a message go on that was held back.", MailQueue.Release)
	Handle(m, "quarantineEmail", RoleOperator, s.quarantine, Doc("Holds a message back."))
	Handle(m, "getSuppressions", RoleViewer, s.getSuppressions, Doc("Lists addresses that no mail is sent to."))
	Handle(m, "addSuppression", RoleOperator, s.addSuppression, Doc("Has no mail sent to an address."))
	Handle(m, "removeSuppression", RoleOperator, s.removeSuppression, Doc("Has mail sent to an address again."))
	Handle(m, "getEmailDomains", RoleViewer, s.getMailDomains, Doc("Lists mail domains and whether their DNS records are as they should be."))
}

func (s *Server) getQueue(ctx context.Context, req queueRequest) (queueResponse, error) {
	if s.opts.queue == nil {
		return queueResponse{}, notConfigured("a mail queue is")
	}
	p, err := req.page()
	if err != nil {
		return queueResponse{}, err
	}
	list, next, err := s.opts.queue.Messages(ctx, req.State, p)
	for i := range list {
		list[i].Recipients = orEmpty(list[i].Recipients)
	}
	return queueResponse{orEmpty(list), next}, err
}

func (s *Server) getMessage(ctx context.Context, req messageRequest) (MessageDetail, error) {
	if s.opts.queue == nil {
		return MessageDetail{}, notConfigured("a mail queue is")
	}
	d, err := s.opts.queue.Message(ctx, req.ID)
	d.Timeline = orEmpty(d.Timeline)
	return d, err
}

func (s *Server) quarantine(ctx context.Context, req quarantineRequest) (nothing, error) {
	if s.opts.queue == nil {
		return nothing{}, notConfigured("a mail queue is")
	}
	callerFrom(ctx).note("%q", req.ID)
	return nothing{}, s.opts.queue.Quarantine(ctx, req.ID, bounded(req.Reason))
}

func (s *Server) getSuppressions(ctx context.Context, req pageRequest) (suppressionsResponse, error) {
	if s.opts.suppression == nil {
		return suppressionsResponse{}, notConfigured("a suppression list is")
	}
	p, err := req.page()
	if err != nil {
		return suppressionsResponse{}, err
	}
	list, next, err := s.opts.suppression.Suppressed(ctx, p)
	return suppressionsResponse{orEmpty(list), next}, err
}

func (s *Server) addSuppression(ctx context.Context, req suppressRequest) (nothing, error) {
	if s.opts.suppression == nil {
		return nothing{}, notConfigured("a suppression list is")
	}
	callerFrom(ctx).note("%q", req.Address)
	reason := req.Reason
	if reason == "" {
		reason = "by " + callerFrom(ctx).name()
	}
	return nothing{}, s.opts.suppression.Suppress(ctx, Suppressed{Address: req.Address, Reason: bounded(reason), Since: s.now().UTC(), Expires: req.Expires})
}

func (s *Server) removeSuppression(ctx context.Context, req addressRequest) (nothing, error) {
	if s.opts.suppression == nil {
		return nothing{}, notConfigured("a suppression list is")
	}
	callerFrom(ctx).note("%q", req.Address)
	return nothing{}, s.opts.suppression.Unsuppress(ctx, req.Address)
}

func (s *Server) getMailDomains(ctx context.Context, _ struct{}) (mailDomainsResponse, error) {
	if s.opts.domains == nil {
		return mailDomainsResponse{}, notConfigured("mail domains are")
	}
	list, err := s.opts.domains.MailDomains(ctx)
	for i := range list {
		list[i].Records = orEmpty(list[i].Records)
	}
	return mailDomainsResponse{orEmpty(list)}, err
}
