package email

import (
	"net/url"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/webhook"
	"github.com/dcrouter/dcrouter/internal/conf"
)

func (o *Outbound) validate(check *conf.Checker) {
	first := map[string]int{}
	for i, t := range o.TLS {
		at := check.Field("tls").Index(i)
		if t.Domain != "*" {
			at.Field("domain").Domain(strings.TrimPrefix(t.Domain, "."))
		}
		at.Field("domain").Unique(first, canonicalDomain(t.Domain), "tls", i)
		at.Field("mode").OneOf(t.Mode, OpportunisticTLS, StartTLS, DANETLS, NoTLS)
	}
	check.Field("caPath").Line(o.CAPath)
	check.Field("mxCacheTimeout").Wait(o.MXCacheTimeout)
	check.Field("organization").Line(o.Organization)
	if o.Contact != "" {
		check.Field("contact").Mailbox(o.Contact)
	}
	warm := o.WarmUp.settings()
	check.Field("warmUp").Add(warm.Validate())
}

func validateWebhooks(check *conf.Checker, hooks []Webhook) {
	first := map[string]int{}
	for i, w := range hooks {
		at := check.Index(i)
		if u, err := url.Parse(w.URL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			at.Field("url").Errorf("%q is not an address such as https://example.com/hook", w.URL)
		}
		at.Field("url").Unique(first, w.URL, "webhooks", i)
		at.Field("secret").RequiredSecret(w.Secret)
		for name, s := range map[string]Secret{"secret": w.Secret, "previousSecret": w.PreviousSecret} {
			if s.Reveal() == "" || s.Reveal() == "***" {
				continue
			}
			if _, err := webhook.ParseSecret(s); err != nil {
				at.Field(name).Errorf("%v", err)
			}
		}
		for j, kind := range w.Events {
			at.Field("events").Index(j).OneOf(kind, eventKinds()...)
		}
	}
}

// eventKinds are all values of [Event.Kind].
func eventKinds() []string {
	return []string{EventConnected, EventRefused, EventSignedIn, EventSignInFailed, EventReceived, EventQuarantined, EventDelivered, EventDeferred, EventFailed,
		EventDelayed, EventBounced, EventComplained, EventReleased, EventDropped, EventExpired}
}
