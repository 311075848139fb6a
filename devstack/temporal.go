package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/log/tag"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
)

// namespace is the only one that is created; a client may register more.
const namespace = "default"

// retention is how long closed workflows stay visible.
const retention = 90 * 24 * time.Hour

// searchAttributes are those that Gradus workflows write. They are registered with the namespace.
func searchAttributes() map[string]enums.IndexedValueType {
	return map[string]enums.IndexedValueType{
		"GradusRecipe":   enums.INDEXED_VALUE_TYPE_KEYWORD,
		"GradusRun":      enums.INDEXED_VALUE_TYPE_KEYWORD,
		"GradusState":    enums.INDEXED_VALUE_TYPE_KEYWORD,
		"GradusProblems": enums.INDEXED_VALUE_TYPE_KEYWORD,
		"GradusStep":     enums.INDEXED_VALUE_TYPE_INT,
		"GradusPassRate": enums.INDEXED_VALUE_TYPE_DOUBLE,
	}
}

// tuning makes a server with one client as quick as it can be; the defaults are for clusters with many tenants.
func tuning() dynamicconfig.StaticClient {
	const pollsPerSecond, requestsPerSecond = 5000, 100_000
	return dynamicconfig.StaticClient{
		// A queue is polled at most 20 times a second by default: every hop of a workflow would wait 50 ms for it.
		dynamicconfig.TransferProcessorMaxPollRPS.Key():   pollsPerSecond,
		dynamicconfig.TimerProcessorMaxPollRPS.Key():      pollsPerSecond,
		dynamicconfig.VisibilityProcessorMaxPollRPS.Key(): pollsPerSecond,
		dynamicconfig.OutboundProcessorMaxPollRPS.Key():   pollsPerSecond,
		// Continue-as-new of a young workflow would wait until it is one second old.
		dynamicconfig.WorkflowIdReuseMinimalInterval.Key(): time.Duration(0),
		dynamicconfig.EnableActivityEagerExecution.Key():   true,
		// Fairness keys have no effect without it.
		dynamicconfig.MatchingEnableFairness.Key(): true,
		// Partitions spread a task queue over machines. With one machine they only make tasks and pollers miss each other.
		dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():  1,
		dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(): 1,
		// Nobody else is to be protected from this client.
		dynamicconfig.FrontendRPS.Key():                                  requestsPerSecond,
		dynamicconfig.FrontendMaxNamespaceRPSPerInstance.Key():           requestsPerSecond,
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): requestsPerSecond,
		dynamicconfig.FrontendPersistenceMaxQPS.Key():                    requestsPerSecond,
		dynamicconfig.MatchingRPS.Key():                                  requestsPerSecond,
		dynamicconfig.MatchingPersistenceMaxQPS.Key():                    requestsPerSecond,
		dynamicconfig.HistoryRPS.Key():                                   requestsPerSecond,
		dynamicconfig.HistoryPersistenceMaxQPS.Key():                     requestsPerSecond,
		// Version checks would call home.
		dynamicconfig.EnableServerVersionCheck.Key(): false,
	}
}

// startTemporal starts all services of a Temporal server on the database in dir and returns when they serve the namespace.
func startTemporal(ctx context.Context, dir string, p ports, logPath string, stderr io.Writer) (temporal.Server, error) {
	fail := func(err error) (temporal.Server, error) { return nil, fmt.Errorf("temporal: %w", err) }
	path := filepath.Join(dir, "temporal.db")
	if err := createDatabase(path); err != nil {
		return fail(fmt.Errorf("create %s: %w", path, err))
	}
	logger := fatalLogger{
		Logger: log.NewZapLogger(log.BuildZapLogger(log.Config{Level: "warn", OutputFile: logPath})),
		stderr: stderr,
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(serverConfig(path, p)),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(map[primitives.ServiceName]static.Hosts{
			primitives.FrontendService: static.SingleLocalHost(loopback(p.frontend)),
			primitives.HistoryService:  static.SingleLocalHost(loopback(p.history)),
			primitives.MatchingService: static.SingleLocalHost(loopback(p.matching)),
			primitives.WorkerService:   static.SingleLocalHost(loopback(p.worker)),
		}),
		temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return authorization.NewNoopClaimMapper() }),
		temporal.WithDynamicConfigClient(tuning()),
	)
	if err != nil {
		return fail(err)
	}
	if err := server.Start(); err != nil {
		return fail(err)
	}
	if err := prepareNamespace(ctx, loopback(p.frontend)); err != nil {
		return fail(errors.Join(err, server.Stop()))
	}
	return server, nil
}

// serverConfig is a one-machine cluster on one SQLite file.
func serverConfig(path string, p ports) *config.Config {
	service := func(port int) config.Service {
		return config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: "127.0.0.1"}}
	}
	return &config.Config{
		Global: config.Global{
			Membership: config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: "127.0.0.1"},
		},
		Persistence: config.Persistence{
			DefaultStore:     sqliteplugin.PluginName,
			VisibilityStore:  sqliteplugin.PluginName,
			NumHistoryShards: 1,
			DataStores: map[string]config.DataStore{
				// With a write-ahead log, a crash of the process loses nothing and a power cut at most the last commits.
				sqliteplugin.PluginName: {SQL: database(path, map[string]string{"journal_mode": "WAL", "synchronous": "NORMAL"})},
			},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: loopback(p.frontend)},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services: map[string]config.Service{
			string(primitives.FrontendService): service(p.frontend),
			string(primitives.HistoryService):  service(p.history),
			string(primitives.MatchingService): service(p.matching),
			string(primitives.WorkerService):   service(p.worker),
		},
		PublicClient: config.PublicClient{HostPort: loopback(p.frontend)},
		Archival: config.Archival{
			History:    config.HistoryArchival{State: "disabled"},
			Visibility: config.VisibilityArchival{State: "disabled"},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: "disabled"},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
		}},
	}
}

const clusterName = "active"

// database is the SQLite file at path, opened with these pragmas. The path becomes part of a URI.
func database(path string, pragmas map[string]string) *config.SQL {
	attributes := map[string]string{"mode": "rwc"}
	for name, value := range pragmas {
		attributes[name] = value
	}
	return &config.SQL{
		PluginName:        sqliteplugin.PluginName,
		DatabaseName:      (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath(),
		ConnectAttributes: attributes,
	}
}

// createDatabase makes the database, with schema and namespace, where it is absent. It is built under another name first:
// a start that is killed half-way leaves nothing that the next one would trip over.
func createDatabase(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	building := path + ".new"
	for _, leftover := range []string{building, building + "-journal"} {
		if err := removeIfPresent(leftover); err != nil {
			return err
		}
	}
	db := database(building, map[string]string{"synchronous": "OFF"})
	if err := sqlite.SetupSchema(db); err != nil {
		return err
	}
	ns, err := sqlite.NewNamespaceConfig(clusterName, namespace, false, searchAttributes())
	if err != nil {
		return err
	}
	ns.Detail.Config.Retention = durationpb.New(retention)
	if err := sqlite.CreateNamespaces(db, ns); err != nil {
		return err
	}
	return os.Rename(building, path)
}

// prepareNamespace waits until the frontend serves the namespace, and registers the search attributes that
// a folder of an earlier version lacks.
func prepareNamespace(ctx context.Context, address string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	workflows := workflowservice.NewWorkflowServiceClient(conn)
	for {
		_, err := workflows.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("namespace %s: %w", namespace, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	operator := operatorservice.NewOperatorServiceClient(conn)
	have, err := operator.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("list search attributes: %w", err)
	}
	missing := searchAttributes()
	for name := range have.GetCustomAttributes() {
		delete(missing, name)
	}
	if len(missing) == 0 {
		return nil
	}
	_, err = operator.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
	if err != nil {
		return fmt.Errorf("add search attributes: %w", err)
	}
	return nil
}

// fatalLogger tells the parent, too, why the server gives up: Temporal ends the process after a fatal message.
type fatalLogger struct {
	log.Logger
	stderr io.Writer
}

// Fatal implements log.Logger.
func (l fatalLogger) Fatal(msg string, tags ...tag.Tag) {
	fmt.Fprintf(l.stderr, "devstack: temporal: %s", msg)
	for _, t := range tags {
		fmt.Fprintf(l.stderr, " %s=%v", t.Key(), t.Value())
	}
	fmt.Fprintln(l.stderr)
	l.Logger.Fatal(msg, tags...)
}
