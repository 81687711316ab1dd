package email

import "time"

// Values of [Scanner.Type].
const (
	// SpamScanner gives a score.
	SpamScanner = "spam"
	// VirusScanner looks for malware.
	VirusScanner = "virus"
	// AttachmentScanner looks at names, types and sizes of attachments.
	AttachmentScanner = "attachment"
)

// Values of [Scanner.Action].
const (
	// TagMail adds headers and lets the message pass.
	TagMail = "tag"
	// QuarantineMail accepts the message but holds it back.
	QuarantineMail = "quarantine"
	// RejectMail refuses the message.
	RejectMail = "reject"
)

// Values of [Scanner.Backend].
const (
	// BuiltinBackend needs no other program.
	BuiltinBackend = "builtin"
	// RspamdBackend speaks rspamd's HTTP protocol (/checkv2).
	RspamdBackend = "rspamd"
	// SpamAssassinBackend speaks spamd's protocol.
	SpamAssassinBackend = "spamassassin"
	// ClamAVBackend speaks clamd's INSTREAM.
	ClamAVBackend = "clamav"
	// MilterBackend speaks the milter protocol, version 6. The filter is asked when
	// all of a message has come, so that one that refuses a recipient refuses the
	// message for all: it is bad, and the reply names the recipient. Fields that the
	// filter adds to the header, changes or removes are as it says in what is
	// delivered. A message of which it wants to change anything else counts as one
	// that could not be scanned.
	MilterBackend = "milter"
)

// Values of [Scanner.OnError].
const (
	// TempFailMail puts the message off with a 4xx reply.
	TempFailMail = "tempfail"
	// AcceptMail lets the message pass.
	AcceptMail = "accept"
)

// Scanner looks at the content of mail.
type Scanner struct {
	// Type is [SpamScanner], [VirusScanner] or [AttachmentScanner]. Required.
	Type string `json:"type"`
	// Backend does the work: [BuiltinBackend], the default, [RspamdBackend],
	// [SpamAssassinBackend], [ClamAVBackend] or [MilterBackend].
	Backend string `json:"backend"`
	// Address is where Backend listens: host:port, or the path of a Unix
	// socket. Required for all but the built-in one.
	Address string `json:"address"`
	// Timeout bounds one scan. The default 0 means 30s.
	Timeout time.Duration `json:"timeout"`
	// OnError is [TempFailMail], the default, or [AcceptMail]: what becomes of a
	// message that could not be scanned.
	OnError string `json:"onError"`
	// Action is what happens to a message that is found bad: [TagMail],
	// [QuarantineMail] or [RejectMail]. The default "" means tag for spam and
	// reject for the others.
	Action string `json:"action"`
	// Quarantine keeps a copy of what is rejected.
	Quarantine bool `json:"quarantine"`
	// Threshold is the score from which a message is spam. The default 0 means
	// 5. Spam only.
	Threshold float64 `json:"threshold"`
	// Headers are the headers that the action tag adds, of "X-Spam-Score",
	// "X-Spam-Status", "X-Spam-Level" and "X-Spam-Flag". Empty means the first
	// two. Spam only.
	Headers []string `json:"headers"`
	// BlockedExtensions are endings of file names that are not let in, as
	// ".exe". Attachment only.
	BlockedExtensions []string `json:"blockedExtensions"`
	// MaxSize limits each attachment, in bytes. The default 0 means no limit.
	// Attachment only.
	MaxSize int64 `json:"maxSize"`
}
