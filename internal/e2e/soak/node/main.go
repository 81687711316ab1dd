// Command node is what the soak runs in processes of their own, so that they can
// be measured and killed:
//
//	node gateway CONFIG DEADLINE CONTROL   a gateway with a configuration file, to
//	                                       change by HTTP at the address CONTROL
//	node web NAME ADDR TCP                 a back end for HTTP, and one that echoes
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 4 && args[0] == "gateway":
		deadline, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return gateway(args[1], deadline, args[3])
	case len(args) == 4 && args[0] == "web":
		return web(args[1], args[2], args[3])
	}
	return fmt.Errorf("what is %q? See the head of main.go", args)
}
