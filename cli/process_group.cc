#include "cli/process_group.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace conclave {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(20);

sigset_t WaitedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, signal);
  return set;
}

std::string DescribeEnd(int wait_status) {
  if (WIFSIGNALED(wait_status)) return absl::StrCat("was killed by signal ", WTERMSIG(wait_status));
  return absl::StrCat("ended with exit code ", WEXITSTATUS(wait_status));
}

// The last line near the end of a log that is not blank and for which `wanted` holds; empty: none.
template <typename Predicate>
std::string LastLineWhere(const std::string& log_path, Predicate wanted) {
  constexpr std::streamoff kTailBytes = 64 << 10;
  std::ifstream file(log_path, std::ios::binary | std::ios::ate);
  if (!file) return "";
  const std::streamoff size = file.tellg();
  file.seekg(size > kTailBytes ? size - kTailBytes : 0);
  std::string line, last;
  while (std::getline(file, line)) {
    if (line.find_first_not_of(" \t\r") != std::string::npos && wanted(line)) last = line;
  }
  return last;
}

// The line by which a process said why it ended: its last one that is no log line below an error (moe/base/log.h).
std::string LastErrorLine(const std::string& log_path) {
  return LastLineWhere(log_path, [](const std::string& line) {
    return !absl::StartsWith(line, "D 2") && !absl::StartsWith(line, "I 2") && !absl::StartsWith(line, "W 2");
  });
}

// What a process without an error line did: where its log takes no more, it may have had one to write.
std::string WhyNoErrorLine(const std::string& log_path) {
  const int log = open(log_path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  const bool written = log >= 0 && write(log, "\n", 1) == 1;
  const int error = errno;
  if (log >= 0) close(log);
  return written ? "it wrote no error" : absl::StrCat("it could not write why: ", strerror(error));
}

// The environment for children: all but the variables that were meant for this command.
std::vector<char*> ChildEnvironment() {
  std::vector<char*> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!absl::StartsWith(*variable, "CONCLAVE_")) variables.push_back(*variable);
  }
  variables.push_back(nullptr);
  return variables;
}

// Runs in the child between fork and exec, where only async-signal-safe calls are allowed.
[[noreturn]] void BecomeChild(const char* binary, char* const* arguments, char* const* environment, int log,
                              pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(126);  // the parent ended before the line above
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, STDIN_FILENO);
  execve(binary, arguments, environment);
  const char* reason = strerror(errno);
  for (const char* text : {"cannot execute ", binary, ": ", reason, "\n"}) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) break;
  }
  _exit(127);
}

}  // namespace

void BlockSignals() {
  const sigset_t set = WaitedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

int WaitForSignal(absl::Duration wait) {
  const sigset_t set = WaitedSignals();
  const timespec timeout = absl::ToTimespec(wait);
  const int signal = sigtimedwait(&set, nullptr, &timeout);
  return signal > 0 ? signal : 0;
}

bool AsksToEnd(int signal) { return signal == SIGINT || signal == SIGTERM || signal == SIGHUP; }

std::string LastLogLine(const std::string& log_path) {
  return LastLineWhere(log_path, [](const std::string&) { return true; });
}

ProcessGroup::~ProcessGroup() {
  for (Process& process : processes_) {
    if (process.ended) continue;
    kill(process.pid, SIGKILL);
    waitpid(process.pid, &process.wait_status, 0);
  }
}

absl::StatusOr<pid_t> ProcessGroup::Start(ProcessSpec spec) {
  const int log = open(spec.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) {
    return absl::InternalError(absl::StrCat("cannot write ", spec.log_path, ": ", strerror(errno),
                                            "; choose another directory with --run-dir"));
  }
  std::vector<char*> arguments{spec.binary.data()};
  for (std::string& argument : spec.arguments) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  std::vector<char*> environment = ChildEnvironment();
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) BecomeChild(spec.binary.c_str(), arguments.data(), environment.data(), log, parent);
  const int error = errno;
  close(log);
  if (pid < 0) {
    return absl::InternalError(absl::StrCat("cannot start ", spec.name, ": ", strerror(error)));
  }
  processes_.push_back(Process{std::move(spec), pid, false, false, 0});
  return pid;
}

void ProcessGroup::Collect() {
  for (Process& process : processes_) {
    if (!process.ended && waitpid(process.pid, &process.wait_status, WNOHANG) == process.pid) process.ended = true;
  }
}

std::vector<EndedProcess> ProcessGroup::TakeEnded() {
  Collect();
  std::vector<EndedProcess> ended;
  for (Process& process : processes_) {
    if (!process.ended || std::exchange(process.taken, true)) continue;
    const ProcessSpec& spec = process.spec;
    const std::string line = LastErrorLine(spec.log_path);
    ended.push_back({spec.role, spec.name,
                     absl::StrCat(spec.name, " ", DescribeEnd(process.wait_status), ": ",
                                  line.empty() ? WhyNoErrorLine(spec.log_path) : line, " (log: ", spec.log_path, ")")});
  }
  return ended;
}

bool ProcessGroup::AllEnded(const std::string& role) const {
  for (const Process& process : processes_) {
    if (process.spec.role == role && !process.ended) return false;
  }
  return true;
}

void ProcessGroup::Signal(const std::string& role, int signal) {
  for (const Process& process : processes_) {
    if (process.spec.role == role && !process.ended) kill(process.pid, signal);
  }
}

absl::Status ProcessGroup::Stop(absl::Duration role_timeout) {
  std::vector<std::string> unclean;
  for (auto last = processes_.rbegin(); last != processes_.rend(); ++last) {
    const std::string role = last->spec.role;
    Collect();
    if (AllEnded(role)) continue;
    Signal(role, SIGTERM);
    const absl::Time deadline = absl::Now() + role_timeout;
    while (!AllEnded(role) && !hurry_ && absl::Now() < deadline) {
      hurry_ = AsksToEnd(WaitForSignal(kPoll));
      Collect();
    }
    Signal(role, SIGKILL);
    while (!AllEnded(role)) {
      WaitForSignal(kPoll);
      Collect();
    }
  }
  for (const Process& process : processes_) {
    if (process.wait_status != 0 && !process.taken) {
      unclean.push_back(absl::StrCat(process.spec.name, " ", DescribeEnd(process.wait_status)));
    }
  }
  if (unclean.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("not all processes ended cleanly: ", absl::StrJoin(unclean, ", ")));
}

}  // namespace conclave
