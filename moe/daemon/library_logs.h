// gRPC and protobuf write to standard error on their own; errors of ours are one line that says what to do.
#ifndef CONCLAVE_MOE_DAEMON_LIBRARY_LOGS_H_
#define CONCLAVE_MOE_DAEMON_LIBRARY_LOGS_H_

namespace conclave {

// Turns the log lines of gRPC and protobuf into debug lines of ours. Call at the start of main; Daemon does it too.
void RouteLibraryLogs();

}  // namespace conclave

#endif  // CONCLAVE_MOE_DAEMON_LIBRARY_LOGS_H_
