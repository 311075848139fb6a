// Package docker has no code; its tests check the image and the composition
// without a container engine.
package docker

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

type service struct {
	Image       string            `yaml:"image"`
	Build       map[string]string `yaml:"build"`
	Command     []string          `yaml:"command"`
	DependsOn   yaml.Node         `yaml:"depends_on"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	Healthcheck map[string]any    `yaml:"healthcheck"`
	Restart     string            `yaml:"restart"`
	StopGrace   string            `yaml:"stop_grace_period"`
}

func TestCompose(t *testing.T) {
	f, err := os.Open("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var compose struct {
		Name     string             `yaml:"name"`
		Services map[string]service `yaml:"services"`
		Volumes  map[string]any     `yaml:"volumes"`
	}
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(&compose); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgresql", "temporal", "temporal-ui", "minio", "worker-cpu", "worker-rollout", "worker-train"} {
		if _, ok := compose.Services[name]; !ok {
			t.Errorf("service %s is missing", name)
		}
	}
	for name, s := range compose.Services {
		if (s.Image == "") == (s.Build == nil) {
			t.Errorf("%s: want an image or a build, one of them", name)
		}
		if s.Image != "" && (!strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest")) {
			t.Errorf("%s: image %s is not pinned", name, s.Image)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to the network", name, p)
			}
		}
		for key, v := range s.Environment {
			if secret := regexp.MustCompile(`PASSWORD|PWD|SECRET|ACCESS_KEY`); secret.MatchString(key) && !strings.HasPrefix(v, "${") {
				t.Errorf("%s: %s is written into the file", name, key)
			}
		}
		for _, v := range s.Volumes {
			if volume, _, _ := strings.Cut(v, ":"); !slices.Contains([]string{"postgresql", "minio"}, volume) {
				t.Errorf("%s: volume %s is not declared", name, volume)
			}
		}
		if role, ok := strings.CutPrefix(name, "worker-"); ok {
			if flag(s.Command, "--role") != role {
				t.Errorf("%s runs %v", name, s.Command)
			}
			checkGrace(t, name, s.Command, s.StopGrace)
		}
	}
}

// flag is what a command has after a flag, or "".
func flag(command []string, name string) string {
	if i := slices.Index(command, name); i >= 0 && i+1 < len(command) {
		return command[i+1]
	}
	return ""
}

// checkGrace: a worker has time to report what it gave back before it is killed.
func checkGrace(t *testing.T, name string, command []string, killed string) {
	t.Helper()
	grace, err := time.ParseDuration(flag(command, "--grace"))
	limit, wrong := time.ParseDuration(killed)
	if err != nil || wrong != nil || limit < grace+5*time.Second {
		t.Errorf("%s has a grace of %s and is killed after %s (%v, %v)", name, grace, limit, err, wrong)
	}
}

func TestKubernetes(t *testing.T) {
	f, err := os.Open("kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	roles := map[string]bool{}
	for d := yaml.NewDecoder(f); ; {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				Selector struct {
					MatchLabels map[string]string `yaml:"matchLabels"`
				}
				Template struct {
					Metadata struct{ Labels map[string]string }
					Spec     struct {
						Grace      int `yaml:"terminationGracePeriodSeconds"`
						Containers []struct {
							Image  string
							Args   []string
							Env    []struct{ Name string }
							Mounts []struct {
								MountPath string `yaml:"mountPath"`
							} `yaml:"volumeMounts"`
						}
					}
				}
			}
		}
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if o.Kind != "StatefulSet" {
			continue
		}
		pod := o.Spec.Template.Spec
		c := pod.Containers[0]
		role := flag(c.Args, "--role")
		roles[role] = true
		if o.Metadata.Name != "gradus-"+role || !maps.Equal(o.Spec.Selector.MatchLabels, o.Spec.Template.Metadata.Labels) {
			t.Errorf("%s has role %q, selects %v and labels %v", o.Metadata.Name, role, o.Spec.Selector.MatchLabels, o.Spec.Template.Metadata.Labels)
		}
		if flag(c.Args, "--name") != "$(POD_NAME)" || len(c.Env) != 1 || c.Env[0].Name != "POD_NAME" {
			t.Errorf("%s: the worker does not have the pod's name", o.Metadata.Name)
		}
		checkGrace(t, o.Metadata.Name, c.Args, fmt.Sprintf("%ds", pod.Grace))
		if dir := flag(c.Args, "--cache-dir"); dir != "" && (len(c.Mounts) != 1 || c.Mounts[0].MountPath != dir) {
			t.Errorf("%s: no volume is mounted at %s", o.Metadata.Name, dir)
		}
		if !strings.Contains(c.Image, ":") || strings.HasSuffix(c.Image, ":latest") {
			t.Errorf("%s: image %s is not pinned", o.Metadata.Name, c.Image)
		}
	}
	if len(roles) != 3 || !roles["cpu"] || !roles["rollout"] || !roles["train"] {
		t.Errorf("roles %v, want cpu, rollout and train", roles)
	}
}

func TestDockerfile(t *testing.T) {
	raw, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages, user := 0, ""
	for line := range strings.Lines(string(raw)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "FROM":
			stages++
			user = ""
			if image := strings.Fields(rest)[0]; !strings.Contains(image, ":") || strings.HasSuffix(image, ":latest") {
				t.Errorf("image %s is not pinned", image)
			}
		case "USER":
			user = rest
		case "", "#", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT", "CMD":
		default:
			t.Errorf("instruction %q", word)
		}
	}
	if stages < 2 || user == "" || strings.HasPrefix(user, "root") {
		t.Errorf("%d stages, last user %q; want several stages and a user other than root", stages, user)
	}
}
