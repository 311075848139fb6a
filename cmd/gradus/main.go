// Command gradus trains language-model policies by reinforcement on
// verifiable problems: it starts the local stack and workers, launches and
// follows experiments, and keeps problem sets.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gradus-rl/gradus/recipes"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "gradus:", err)
		stop()
		os.Exit(1)
	}
}

func root() *cobra.Command {
	r := &cobra.Command{
		Use:           "gradus",
		Short:         "Curriculum and data selection for reinforcement learning with verifiable rewards",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	r.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return asPair(cmd, os.Args, err) })
	var t target
	f := r.PersistentFlags()
	f.StringVar(&t.dir, "dir", defaultDir(), "state folder of the local stack")
	f.StringVar(&t.temporal, "temporal", "", "address of a Temporal server of your own, host:port")
	f.StringVar(&t.namespace, "namespace", "default", "Temporal namespace")
	f.StringVar(&t.store, "store", "", "object store of your own, s3://bucket/prefix?endpoint=http://host:port or file:///folder; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	f.StringVar(&t.output, "output", "text", "text or json")
	r.AddCommand(demoCommand(&t), devCommand(&t), runCommand(&t), statusCommand(&t),
		pauseCommand(&t), resumeCommand(&t), stopCommand(&t), tuneCommand(&t), sweepCommand(&t), forkCommand(&t), rewindCommand(&t), extendCommand(&t),
		workerCommand(&t), workersCommand(&t), dataCommand(&t), selectCommand(&t), whyCommand(&t), storeCommand(&t), policyCommand(&t), serveCommand(&t), recipesCommand(&t), memoryCommand(&t), benchCommand(&t))
	return r
}

// asPair answers a flag that is an option of the plan with how options are written.
func asPair(cmd *cobra.Command, args []string, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || !strings.Contains(cmd.Use, "key=value") {
		return err
	}
	name := unknown.GetSpecifiedName()
	key, value := strings.ReplaceAll(name, "-", "_"), "VALUE"
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			value = v
		} else if a == "--"+name && i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
			value = args[i+1]
		}
	}
	for _, r := range recipes.All() {
		_, err := recipes.Resolve(fmt.Appendf(nil, "{%q:%q,%q:null}", "recipe", r.Name, key))
		if !errors.Is(err, recipes.ErrUnknown) {
			return fmt.Errorf("unknown flag --%s; write %s=%s", name, key, value)
		}
	}
	if hint := recipes.Theirs(key); hint != "" {
		return fmt.Errorf("unknown flag --%s; %s", name, hint)
	}
	return err
}

// family is a command that is there for those under it; by itself it tells of them.
func family(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
}
