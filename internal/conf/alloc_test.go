package conf_test

import (
	"testing"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Walking over what is right costs nothing, however deep: configurations with
// ten thousand routes are checked while requests wait for the processor.
func TestCheckingAllocatesNothing(t *testing.T) {
	c := conf.NewChecker()
	list := []string{"10.0.0.0/8", "::1"}
	n := testing.AllocsPerRun(100, func() {
		for i := range 3 {
			at := c.Field("routes").Index(i)
			at.Field("action").Field("limit").NotNegative(i)
			at.Field("match").Field("clientIp").CIDRs(list)
			at.Field("name").Line("a")
			at.Field("headers").Key("X-A").HeaderName("X-A")
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}
