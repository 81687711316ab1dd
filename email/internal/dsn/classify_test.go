package dsn

import "testing"

func TestClassify(t *testing.T) {
	for _, test := range []struct {
		f    Failure
		want Class
	}{
		// The text is right, and the code is wrong.
		{Failure{550, "5.1.1", "Message rejected: your IP 192.0.2.1 is on our blocklist"}, Class{Block, Reputation}},
		{Failure{550, "5.7.1", "<bob@example.net>: no such user"}, Class{Hard, NoSuchUser}},
		{Failure{550, "5.7.1", "RESOLVER.ADR.RecipNotFound; not found"}, Class{Hard, NoSuchUser}},
		{Failure{550, "5.1.1", "Mailbox is full / Blocks limit exceeded"}, Class{Soft, MailboxFull}},
		{Failure{554, "5.0.0", "Over quota"}, Class{Soft, MailboxFull}},
		{Failure{552, "", "Message size exceeds fixed maximum message size"}, Class{Soft, Size}},
		{Failure{552, "5.2.0", "spam content detected"}, Class{Block, Spam}},
		{Failure{550, "5.5.0", "Requested action not taken: mailbox unavailable"}, Class{Hard, NoSuchUser}},
		{Failure{550, "5.4.1", "Recipient address rejected: Access denied. AS(201806281)"}, Class{Hard, NoSuchUser}},
		{Failure{550, "5.1.0", "<alice@example.com> sender rejected"}, Class{Block, Policy}},
		{Failure{550, "5.1.1", "Sender address rejected: Domain not found"}, Class{Block, Policy}},
		{Failure{550, "5.7.26", "This mail has been blocked because the sender is unauthenticated. DKIM = did not pass"}, Class{Block, Auth}},
		{Failure{550, "", "SPF check failed: not authorized"}, Class{Block, Auth}},
		{Failure{554, "5.7.1", "Relay access denied"}, Class{Block, Relaying}},
		{Failure{421, "4.7.28", "Gmail has detected an unusual rate of mail"}, Class{Soft, Rate}},
		{Failure{450, "4.2.1", "The user you are trying to contact is receiving mail too quickly"}, Class{Soft, Rate}},
		{Failure{451, "4.7.1", "Greylisting in action, please come back later"}, Class{Soft, Greylisted}},
		{Failure{421, "4.7.0", "[TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints"}, Class{Soft, System}},
		{Failure{554, "5.7.9", "Message not accepted for policy reasons"}, Class{Block, Policy}},
		{Failure{554, "5.7.1", "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"}, Class{Block, Reputation}},
		{Failure{550, "5.7.25", "The IP address sending this message does not have a PTR record setup"}, Class{Block, Reputation}},
		{Failure{550, "5.2.1", "The email account that you tried to reach is disabled"}, Class{Hard, Disabled}},
		{Failure{450, "4.2.1", "mailbox temporarily disabled"}, Class{Soft, Disabled}},
		{Failure{550, "5.2.1", "This account is temporarily suspended"}, Class{Soft, Disabled}},
		{Failure{550, "5.7.1", "virus infected message rejected"}, Class{Soft, Content}},
		{Failure{554, "5.4.6", "Too many hops"}, Class{Soft, System}},
		{Failure{0, "5.4.4", "Host or domain name not found. Name service error for name=nowhere.example type=AAAA: Host not found"}, Class{Hard, NoSuchDomain}},
		{Failure{0, "4.4.3", "Host or domain name not found. Name service error for name=slow.example type=MX: Host not found, try again"}, Class{Soft, Network}},
		{Failure{0, "4.4.1", "connect to mx.example.net[192.0.2.7]:25: Connection timed out"}, Class{Soft, Network}},
		{Failure{0, "5.4.7", "delivery time expired"}, Class{Soft, Expired}},
		{Failure{550, "5.7.10", "TLS required"}, Class{Soft, Protocol}},
		{Failure{0, "5.1.0", "5.1.0 - Unknown address error 554-'5.7.1 rejected for policy reasons'"}, Class{Block, Policy}},
		// Whatever an address is made of.
		{Failure{550, "5.1.1", "<spam-trap@rbl.example>: user unknown"}, Class{Hard, NoSuchUser}},
		{Failure{550, "", "Unable to deliver to over-quota@your-domain.example"}, Class{Soft, Unknown}},
		{Failure{550, "", "bob@example.net does not exist"}, Class{Hard, NoSuchUser}},
		// Programs tell in which phase that was.
		{Failure{550, "", "SMTP error from remote mail server after MAIL FROM:<a@b.example>: 550 user unknown"}, Class{Block, Policy}},
		{Failure{552, "", "SMTP error from remote mail server after MAIL FROM:<a@b.example> SIZE=9: 552 message too large"}, Class{Soft, Size}},
		// Nothing to read: the codes.
		{Failure{550, "5.1.1", ""}, Class{Hard, NoSuchUser}},
		{Failure{550, "5.1.2", ""}, Class{Hard, NoSuchDomain}},
		{Failure{556, "5.1.10", "x"}, Class{Hard, NoSuchDomain}},
		{Failure{0, "5.2.2", ""}, Class{Soft, MailboxFull}},
		{Failure{0, "5.7.0", ""}, Class{Block, Policy}},
		{Failure{0, "5.6.0", ""}, Class{Soft, Content}},
		{Failure{553, "", ""}, Class{Hard, NoSuchUser}},
		{Failure{450, "4.1.1", "User unknown"}, Class{Soft, NoSuchUser}},
		{Failure{450, "", "User unknown"}, Class{Soft, NoSuchUser}},
		{Failure{550, "", ""}, Class{Soft, Unknown}},
		{Failure{550, "5.0.0", ""}, Class{Soft, Unknown}},
		{Failure{}, Class{Soft, Unknown}},
		{Failure{554, "", "Transaction failed"}, Class{Soft, Unknown}},
		// All of it in the text, as in a log.
		{Failure{Text: "550 5.1.1 <bob@example.net>: User unknown"}, Class{Hard, NoSuchUser}},
		{Failure{Text: "550-5.1.1 The email account that you tried to reach\n550-5.1.1 does not exist."}, Class{Hard, NoSuchUser}},
		{Failure{Text: "450 4.1.1 <bob@example.net>: User unknown"}, Class{Soft, NoSuchUser}},
		// No failure at all.
		{Failure{250, "2.1.5", "Ok"}, Class{Soft, Unknown}},
		{Failure{0, "2.1.5", "user unknown"}, Class{Soft, Unknown}},
	} {
		if got := Classify(test.f); got != test.want {
			t.Errorf("%d %s %q: %v, want %v", test.f.Code, test.f.Status, test.f.Text, got, test.want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(550, "5.1.1", "user unknown")
	f.Add(0, "", "5.1.0 - Unknown address error 550-'5.7.1 x'")
	f.Fuzz(func(t *testing.T, code int, status, text string) {
		c := Classify(Failure{code, status, text})
		if c.Reason == "" || c.Severity == "" {
			t.Errorf("%+v", c)
		}
		if c.Severity == Hard && code/100 == 4 {
			t.Errorf("%d is hard: %+v", code, c)
		}
	})
}
