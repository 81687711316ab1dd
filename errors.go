package dcrouter

import (
	"errors"
	"fmt"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// ErrRunning is returned by Start when the Router is running or still
// stopping.
var ErrRunning = errors.New("dcrouter: already running")

// FieldError is a mistake in a configuration: the path of the field, such as
// "smartProxyConfig.routes[3].action.targets[0].port", and what is wrong with
// it. Errors about configurations join all that were found; [FieldErrors]
// lists them.
//
// Its fields are Path string, Msg string and Err error, the cause where there is
// one beyond the configuration itself, which Unwrap returns.
type FieldError = conf.FieldError

// FieldErrors lists the mistakes that are joined in err, in order. An error
// that is not about a field comes back as one without a path.
func FieldErrors(err error) []*FieldError { return conf.Fields(err) }

// inSection puts the path of a section in front of the fields that err is
// about. Other errors keep their identity and get its name.
func inSection(path, name string, err error) error {
	var field *FieldError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &field):
		return conf.Prefix(path, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}
