// Child processes that belong to one parent: started, watched, stopped in order, and never left behind.
#ifndef CONCLAVE_CLI_PROCESS_GROUP_H_
#define CONCLAVE_CLI_PROCESS_GROUP_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace conclave {

// Blocks SIGINT, SIGTERM, SIGHUP and SIGCHLD in this and all later threads, so that WaitForSignal receives them.
// Call before other threads start.
void BlockSignals();
// The next of these signals, waiting up to `wait`; 0: none came.
int WaitForSignal(absl::Duration wait);
// Whether `signal` asks the process to end (all of the above but SIGCHLD).
bool AsksToEnd(int signal);

// What to start.
struct ProcessSpec {
  std::string role;  // processes of one role are stopped together
  std::string name;  // "expert-2": unique, stands in errors
  std::string binary;
  std::vector<std::string> arguments;  // without the program's name
  std::string log_path;                // standard output and error are appended to it
};

// A process that has ended.
struct EndedProcess {
  std::string role;
  std::string name;
  std::string message;  // name, exit code or signal, and the last error that it wrote
};

// The last line that a process wrote to its log; empty: none.
std::string LastLogLine(const std::string& log_path);

// Used by one thread, which must live as long as the processes: the kernel kills them when it ends, however it ends.
// They are in process groups of their own, so that Ctrl-C in a terminal reaches the parent alone, and do not inherit
// CONCLAVE_… variables, which were meant for the parent. REQUIRES: BlockSignals was called.
class ProcessGroup {
 public:
  ProcessGroup() = default;
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;
  ~ProcessGroup();  // kills what still runs

  // Starts a process and returns its id. INTERNAL: the log cannot be written or the system refuses.
  absl::StatusOr<pid_t> Start(ProcessSpec spec);

  // The processes that have ended since the last call.
  std::vector<EndedProcess> TakeEnded();

  // Asks all to end by SIGTERM, in the reverse order of Start and one role at a time, and waits for each role up to
  // `role_timeout`; then, or when another signal that asks to end arrives, kills. INTERNAL names those that did not
  // end with exit code 0, those that TakeEnded has returned left out.
  absl::Status Stop(absl::Duration role_timeout);

 private:
  struct Process {
    ProcessSpec spec;
    pid_t pid = 0;
    bool ended = false;
    bool taken = false;  // by TakeEnded
    int wait_status = 0;
  };

  void Collect();
  bool AllEnded(const std::string& role) const;
  void Signal(const std::string& role, int signal);

  std::vector<Process> processes_;
  bool hurry_ = false;  // a second signal arrived while stopping
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_PROCESS_GROUP_H_
