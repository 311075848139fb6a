package reward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// confined says whether this kernel grants the namespaces, found out once.
var confined = sync.OnceValue(func() bool {
	cmd := exec.Command("/bin/sh", "-c", ":")
	cmd.SysProcAttr = namespaces()
	return cmd.Run() == nil
})

// nobody is the user that programs run as where this process is root's, whom no limit on processes binds.
const nobody = 65534

// namespaces asks for processes that see no network and no other processes, and die with their parent.
func namespaces() *syscall.SysProcAttr {
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = nobody, nobody
	}
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: gid, Size: 1}},
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true},
		Setpgid:     true,
		Pdeathsig:   syscall.SIGKILL,
	}
}

// start runs file until it ends or ctx does, and kills whatever it started.
func (s Sandbox) start(ctx context.Context, dir, file, stdin string, limit time.Duration, out io.Writer) error {
	attr := namespaces()
	if !confined() {
		if !s.Unconfined {
			return fmt.Errorf("%w: this machine grants no user namespaces; allow them, use a service, or set unconfined", errSandbox)
		}
		attr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if os.Getuid() == 0 {
			attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		}
	}
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			return fmt.Errorf("%w: %w", errSandbox, err)
		}
	}
	interpreter := s.Interpreter
	if interpreter == nil {
		interpreter = []string{"python3", "-I"}
	}
	path, err := findInterpreter(interpreter[0])
	if err != nil {
		return err
	}
	// the shell waits until its limits are set, and then becomes the program
	gate, open, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%w: %w", errSandbox, err)
	}
	defer gate.Close()
	defer open.Close()
	args := append([]string{"-c", `read -r _ <&3 || exit 1; exec 3<&-; exec "$@"`, "sh", path}, interpreter[1:]...)
	cmd := exec.CommandContext(ctx, "/bin/sh", append(args, file)...)
	cmd.Dir, cmd.Stdin, cmd.Stdout = dir, strings.NewReader(stdin), out
	cmd.Env = []string{"PATH=" + sandboxPath, "HOME=" + dir, "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"}
	cmd.ExtraFiles = []*os.File{gate}
	cmd.SysProcAttr = attr
	cmd.WaitDelay = time.Second
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = kill
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w", errSandbox, err)
	}
	for resource, value := range s.limits(limit) {
		if err := unix.Prlimit(cmd.Process.Pid, resource, &unix.Rlimit{Cur: value, Max: value}, nil); err != nil && !errors.Is(err, unix.ESRCH) {
			return errors.Join(fmt.Errorf("%w: limit %d: %w", errSandbox, resource, err), kill(), cmd.Wait())
		}
	}
	if _, err := open.WriteString("\n"); err != nil {
		return errors.Join(fmt.Errorf("%w: %w", errSandbox, err), kill(), cmd.Wait())
	}
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() == 126 { // said by the shell
		err = fmt.Errorf("%w: %s cannot be run as the user of the sandbox", errSandbox, path)
	}
	_ = kill() // what the program left running, where there is no namespace to end with it
	return err
}

// sandboxPath is where programs and the interpreter are looked for: not what only this process's user has.
const sandboxPath = "/usr/local/bin:/usr/bin:/bin"

func findInterpreter(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(sandboxPath) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: no %s in %s; give the interpreter by its full path", errSandbox, name, sandboxPath)
}

// limits are the resource limits of a run.
func (s Sandbox) limits(limit time.Duration) map[int]uint64 {
	memory, processes := s.Memory, s.Processes
	if memory <= 0 {
		memory = DefaultMemory
	}
	if processes <= 0 {
		processes = DefaultProcesses
	}
	limits := map[int]uint64{
		unix.RLIMIT_AS:     uint64(memory),
		unix.RLIMIT_CPU:    uint64(limit/time.Second) + 1,
		unix.RLIMIT_FSIZE:  16 << 20,
		unix.RLIMIT_NOFILE: 64,
		unix.RLIMIT_CORE:   0,
	}
	if confined() { // counted in the namespace; elsewhere it would count all of the user's
		limits[unix.RLIMIT_NPROC] = uint64(processes)
	}
	return limits
}
