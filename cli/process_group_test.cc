#include "cli/process_group.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

class ProcessGroupTest : public testing::Test {
 protected:
  ProcessGroupTest() { BlockSignals(); }

  std::string LogOf(const std::string& name) const { return absl::StrCat(directory_, "/", name, ".log"); }

  ProcessSpec Shell(const std::string& role, const std::string& name, const std::string& script) const {
    return ProcessSpec{role, name, "/bin/sh", {"-c", script}, LogOf(name)};
  }

  // Polls until `condition` holds, for at most ten seconds.
  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 1000; ++i) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }

  std::string directory_ = [] {
    std::string name = TestFolder() + "/process_group_XXXXXX";
    return std::string(mkdtemp(name.data()));
  }();
};

TEST_F(ProcessGroupTest, ProcessThatDiesIsReportedWithItsOwnLastLine) {
  ProcessGroup group;
  ASSERT_TRUE(
      group.Start(Shell("expert", "expert-0", "echo started; echo 'expert_service: no such layer' >&2; exit 3")).ok());
  std::vector<EndedProcess> ended;
  ASSERT_TRUE(Eventually([&] { return !(ended = group.TakeEnded()).empty(); }));
  EXPECT_EQ(ended[0].role, "expert");
  EXPECT_EQ(ended[0].name, "expert-0");
  EXPECT_TRUE(absl::StartsWith(ended[0].message, "expert-0 ended with exit code 3: expert_service: no such layer"))
      << ended[0].message;
  EXPECT_TRUE(group.TakeEnded().empty()) << "an end is told once";
  EXPECT_TRUE(group.Stop(absl::Seconds(1)).ok()) << "and is no news when stopping";
}

TEST_F(ProcessGroupTest, LogLineThatIsNoErrorIsNotTakenForOne) {
  ProcessGroup group;
  ASSERT_TRUE(
      group.Start(Shell("expert", "expert-0", "echo 'I 2026-11-23T10:00:00.123Z expert-0: ready'; kill -9 $$")).ok());
  std::vector<EndedProcess> ended;
  ASSERT_TRUE(Eventually([&] { return !(ended = group.TakeEnded()).empty(); }));
  EXPECT_TRUE(absl::StartsWith(ended[0].message, "expert-0 was killed by signal 9: it wrote no error"))
      << ended[0].message;
}

TEST_F(ProcessGroupTest, ProcessWhoseLogIsFullIsReportedWithThat) {
  signal(SIGXFSZ, SIG_IGN);  // here and in the child: a file beyond the limit is an error, as a full disk is
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  ProcessGroup group;
  std::vector<EndedProcess> ended;
  const rlimit none = {0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  const bool started = group.Start(Shell("expert", "expert-0", "echo 'no such layer' >&2; exit 3")).ok();
  const bool told = Eventually([&] { return !(ended = group.TakeEnded()).empty(); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_TRUE(started && told);
  const char* const says = "expert-0 ended with exit code 3: it could not write why: File too large";
  EXPECT_TRUE(absl::StartsWith(ended[0].message, says)) << ended[0].message;
}

TEST_F(ProcessGroupTest, BinaryThatCannotRunIsReportedByName) {
  ProcessGroup group;
  ASSERT_TRUE(group.Start(ProcessSpec{"gateway", "gateway", "/nowhere/gateway", {}, LogOf("gateway")}).ok());
  std::vector<EndedProcess> ended;
  ASSERT_TRUE(Eventually([&] { return !(ended = group.TakeEnded()).empty(); }));
  EXPECT_TRUE(absl::StrContains(ended[0].message, "cannot execute /nowhere/gateway: No such file")) << ended[0].message;
}

TEST_F(ProcessGroupTest, LogThatCannotBeWrittenIsRefused) {
  ProcessGroup group;
  EXPECT_FALSE(group.Start(ProcessSpec{"gateway", "gateway", "/bin/true", {}, "/nowhere/gateway.log"}).ok());
}

TEST_F(ProcessGroupTest, StopsRolesInReverseOrderOfStart) {
  ProcessGroup group;
  const std::string order = directory_ + "/order";
  for (const std::string name : {"expert", "router", "gateway"}) {
    const std::string script =
        absl::StrCat("trap 'echo ", name, " >>", order, "; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    ASSERT_TRUE(group.Start(Shell(name, name, script)).ok());
    ASSERT_TRUE(Eventually([&] { return LastLogLine(LogOf(name)) == "up"; }));
  }
  EXPECT_TRUE(group.TakeEnded().empty());
  EXPECT_TRUE(group.Stop(absl::Seconds(10)).ok());
  std::ifstream file(order);
  std::string all((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(all, "gateway\nrouter\nexpert\n");
}

TEST_F(ProcessGroupTest, ProcessThatIgnoresTheRequestIsKilledAndNamed) {
  ProcessGroup group;
  ASSERT_TRUE(group.Start(Shell("expert", "expert-1", "trap '' TERM; echo up; while :; do sleep 0.01; done")).ok());
  ASSERT_TRUE(Eventually([&] { return LastLogLine(LogOf("expert-1")) == "up"; }));
  const absl::Status status = group.Stop(absl::Milliseconds(100));
  EXPECT_TRUE(absl::StrContains(status.message(), "expert-1 was killed by signal 9")) << status;
}

TEST_F(ProcessGroupTest, ChildrenDieWithAKilledParent) {
  int child_pid_pipe[2];
  ASSERT_EQ(pipe(child_pid_pipe), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    ProcessGroup group;
    const absl::StatusOr<pid_t> child = group.Start(Shell("expert", "expert-0", "exec sleep 600"));
    const pid_t pid = child.ok() ? *child : 0;
    if (write(child_pid_pipe[1], &pid, sizeof(pid)) != sizeof(pid)) _exit(1);
    while (true) pause();
  }
  pid_t child = 0;
  ASSERT_EQ(read(child_pid_pipe[0], &child, sizeof(child)), static_cast<ssize_t>(sizeof(child)));
  ASSERT_GT(child, 0);
  ASSERT_EQ(kill(child, 0), 0);
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  // The orphan is dead once it is gone or a zombie that nobody here may reap.
  EXPECT_TRUE(Eventually([&] {
    std::ifstream stat(absl::StrCat("/proc/", child, "/stat"));
    std::string text((std::istreambuf_iterator<char>(stat)), {});
    return text.empty() || absl::StrContains(text, ") Z ");
  }));
}

TEST_F(ProcessGroupTest, ChildrenDoNotInheritVariablesMeantForTheCommand) {
  setenv("CONCLAVE_THREADS", "7", 1);
  ProcessGroup group;
  ASSERT_TRUE(group.Start(Shell("expert", "expert-0", "echo \"threads=$CONCLAVE_THREADS\"; exit 1")).ok());
  ASSERT_TRUE(Eventually([&] { return !group.TakeEnded().empty(); }));
  EXPECT_EQ(LastLogLine(LogOf("expert-0")), "threads=");
  unsetenv("CONCLAVE_THREADS");
}

TEST_F(ProcessGroupTest, ChildSurvivesNoSignalMaskOfItsParent) {
  ProcessGroup group;
  ASSERT_TRUE(group.Start(Shell("expert", "expert-0", "exec sleep 600")).ok());
  // SIGTERM is blocked here; a child that inherited the mask would have to be killed.
  const absl::Status status = group.Stop(absl::Seconds(10));
  EXPECT_TRUE(absl::StrContains(status.message(), "expert-0 was killed by signal 15")) << status;
}

}  // namespace
}  // namespace conclave
