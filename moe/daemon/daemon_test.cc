#include "moe/daemon/daemon.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/byte_buffer.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"
#include "moe/daemon/health_client.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

constexpr char kService[] = "conclave.v1.ExpertService";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return (std::stringstream() << file.rdbuf()).str();
}

// A daemon_test_server process; killed when it goes out of scope.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
    static int count = 0;
    const std::string stem = absl::StrCat(TestFolder(), "/daemon-", getpid(), "-", ++count);
    address_file = stem + ".json";
    error_file_ = stem + ".err";
    arguments.insert(arguments.begin(),
                     absl::StrCat(std::getenv("TEST_SRCDIR"), "/conclave/moe/daemon/daemon_test_server"));
    arguments.push_back("--address-file=" + address_file);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, error_file_.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Process() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    Wait();
  }

  void Signal(int signal) { kill(pid_, signal); }

  // The exit code, or 1000 + the signal that ended it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

  std::string Errors() const { return ReadFile(error_file_); }

  // Waits until standard error holds `text`.
  bool Says(const std::string& text) const {
    for (int i = 0; i < 1000; ++i, absl::SleepFor(absl::Milliseconds(10))) {
      if (Errors().find(text) != std::string::npos) return true;
    }
    return false;
  }

  // What follows `"key": "` in the address file, once it is there.
  std::string Address(const std::string& key) const {
    for (int i = 0; i < 1000; ++i, absl::SleepFor(absl::Milliseconds(10))) {
      const std::string text = ReadFile(address_file), mark = "\"" + key + "\": \"";
      const size_t at = text.find(mark);
      if (at != std::string::npos)
        return text.substr(at + mark.size(), text.find('"', at + mark.size()) - at - mark.size());
    }
    return "";
  }

  absl::Status Serving(const std::string& service = kService) const {
    return CheckServing(grpc::CreateChannel(Address("grpc"), grpc::InsecureChannelCredentials()), service,
                        absl::Seconds(5));
  }

  std::string address_file;

 private:
  pid_t pid_ = 0;
  std::string error_file_;
};

TEST(Daemon, AHealthPortTellsHealthAndNothingElse) {
  Process process({"--health-address=0.0.0.0:0", "--drain=300ms"});
  std::string health = process.Address("health");
  ASSERT_THAT(health, MatchesRegex("0\\.0\\.0\\.0:[0-9]+"));
  health = "127.0.0.1" + health.substr(health.rfind(':'));
  ASSERT_TRUE(WaitUntilServing({health}, kService, absl::Now() + absl::Seconds(10)).ok());
  const auto channel = grpc::CreateChannel(health, grpc::InsecureChannelCredentials());
  EXPECT_TRUE(CheckServing(channel, "", absl::Seconds(5)).ok());
  grpc::ClientContext context;
  v1::DescribeResponse response;
  const grpc::Status status = v1::ExpertService::NewStub(channel)->Describe(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  process.Signal(SIGTERM);
  ASSERT_TRUE(process.Says("draining"));
  EXPECT_FALSE(CheckServing(channel, kService, absl::Seconds(5)).ok()) << "while it drains";
  EXPECT_EQ(process.Wait(), 0) << process.Errors();
}

TEST(Daemon, ServesHealthAndEndsWithZeroOnSigterm) {
  Process process({"--name=expert-2", "--drain-timeout=5m"});
  ASSERT_TRUE(WaitUntilServing({process.Address("grpc")}, kService, absl::Now() + absl::Seconds(10)).ok());
  EXPECT_TRUE(process.Serving("").ok());
  EXPECT_THAT(std::string(process.Serving("conclave.v1.Nothing").message()), HasSubstr("does not offer"));
  EXPECT_THAT(ReadFile(process.address_file),
              MatchesRegex("\\{\"name\": \"expert-2\", \"pid\": [0-9]+, \"grpc\": \"127.0.0.1:[0-9]+\", "
                           "\"metrics\": \"127.0.0.1:[0-9]+\"\\}\n"));
  const absl::Time start = absl::Now();
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 0) << process.Errors();
  EXPECT_LT(absl::Now() - start, absl::Minutes(1)) << "it must not wait for --drain-timeout";
  EXPECT_THAT(process.Errors(), HasSubstr("draining"));
  EXPECT_FALSE(std::filesystem::exists(process.address_file));
}

TEST(Daemon, AMessageBeyondTheLimitIsResourceExhaustedAndTheNextOneIsAnswered) {
  Process process({});
  ASSERT_TRUE(process.Says("listening"));
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);
  grpc::GenericStub stub(
      grpc::CreateCustomChannel(process.Address("grpc"), grpc::InsecureChannelCredentials(), arguments));
  const grpc::Slice slice(std::string((64 << 20) + 1, 'x'));
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  absl::Notification done;
  grpc::Status status;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status result) {
                   status = std::move(result);
                   done.Notify();
                 });
  done.WaitForNotification();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_TRUE(WaitUntilServing({process.Address("grpc")}, kService, absl::Now() + absl::Seconds(10)).ok());
}

TEST(Daemon, SigintEndsItToo) {
  Process process({});
  ASSERT_TRUE(WaitUntilServing({process.Address("grpc")}, kService, absl::Now() + absl::Seconds(10)).ok());
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 0);
}

TEST(Daemon, IsNotServingWhileItStartsAndWhileItDrains) {
  Process starting({"--never-ready"});
  EXPECT_THAT(std::string(starting.Serving().message()), HasSubstr("not ready yet"));
  EXPECT_THAT(std::string(starting.Serving("").message()), HasSubstr("not ready yet"));
  EXPECT_EQ(WaitUntilServing({starting.Address("grpc")}, kService, absl::Now() + absl::Milliseconds(200)).code(),
            absl::StatusCode::kDeadlineExceeded);

  Process draining({"--drain=1h", "--drain-timeout=1h"});
  ASSERT_TRUE(WaitUntilServing({draining.Address("grpc")}, kService, absl::Now() + absl::Seconds(10)).ok());
  draining.Signal(SIGTERM);
  ASSERT_TRUE(draining.Says("draining"));
  EXPECT_THAT(std::string(draining.Serving().message()), HasSubstr("not ready yet"));
}

TEST(Daemon, SigtermBeforeServingEndsItAtOnce) {
  Process process({"--never-ready"});
  ASSERT_NE(process.Address("grpc"), "");
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(process.address_file));
}

TEST(Daemon, ASecondSignalEndsItAtOnce) {
  Process process({"--drain=1h", "--drain-timeout=1h"});
  ASSERT_TRUE(WaitUntilServing({process.Address("grpc")}, kService, absl::Now() + absl::Seconds(10)).ok());
  process.Signal(SIGTERM);
  ASSERT_TRUE(process.Says("draining"));
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 128 + SIGTERM);
}

TEST(Daemon, AHangupIsNoReasonToEnd) {
  Process process({});
  ASSERT_TRUE(WaitUntilServing({process.Address("grpc")}, kService, absl::Now() + absl::Seconds(10)).ok());
  process.Signal(SIGHUP);
  ASSERT_TRUE(process.Says("hung up"));
  ASSERT_TRUE(WaitUntilServing({process.Address("grpc")}, kService, absl::Now() + absl::Seconds(10)).ok());
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 0);
}

TEST(Daemon, ADrainThatTakesAllItsTimeIsAnError) {
  Process process({"--drain=1h", "--drain-timeout=100ms"});
  ASSERT_TRUE(WaitUntilServing({process.Address("grpc")}, kService, absl::Now() + absl::Seconds(10)).ok());
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 1);
  EXPECT_THAT(process.Errors(), HasSubstr("--drain-timeout"));
}

TEST(Daemon, APortInUseIsNamedWithItsFlagInOneLine) {
  Process first({});
  const std::string grpc = first.Address("grpc"), metrics = first.Address("metrics");
  Process second({"--grpc-address=" + grpc});
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_EQ(second.Errors(), absl::StrCat("daemon_test_server: port ", grpc.substr(grpc.rfind(':') + 1),
                                          " of 127.0.0.1 is in use; choose another with --grpc-address\n"));
  Process third({"--metrics-address=" + metrics});
  EXPECT_EQ(third.Wait(), 1);
  EXPECT_THAT(third.Errors(), HasSubstr(metrics.substr(metrics.rfind(':') + 1)));
  EXPECT_THAT(third.Errors(), HasSubstr("--metrics-address"));
}

TEST(Daemon, BadOptionsNameTheFlag) {
  const auto refuses = [](const std::string& argument, const std::string& text) {
    Process process({argument});
    EXPECT_NE(process.Wait(), 0) << argument;
    EXPECT_THAT(process.Errors(), HasSubstr(text)) << argument;
  };
  refuses("--grpc-address=localhost", "--grpc-address");
  refuses("--grpc-address=127.0.0.1:70000", "--grpc-address");
  refuses("--grpc-address=no.such.host.invalid:0", "no.such.host.invalid");
  refuses("--metrics-address=:1", "--metrics-address");
  refuses("--metrics-address=[::1]:0", "--metrics-address: metrics are served over IPv4 alone");
  refuses("--name=a\"b", "--name");
  refuses("--log-level=loud", "--log-level");
  refuses("--drain-timeout=soon", "--drain-timeout");
}

TEST(Daemon, AnAddressFileThatCannotBeWrittenIsNamed) {
  DaemonOptions options;
  options.name = "test";
  options.address_file = "/nowhere/at/all.json";
  const auto metrics = Metrics::Create();
  const auto daemon = Daemon::Create(options, {}, *metrics);
  EXPECT_THAT(std::string(daemon.status().message()), HasSubstr("/nowhere/at/all.json"));
}

TEST(Daemon, WorksWithoutAMetricsPort) {
  DaemonOptions options;
  options.name = "test";
  options.metrics_address = "";
  const auto metrics = Metrics::Create();
  const auto daemon = Daemon::Create(options, {}, *metrics);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ((*daemon)->metrics_address(), "");
  (*daemon)->SetServing(true);
  (*daemon)->RequestStop();
  bool drained = false;
  EXPECT_TRUE((*daemon)->Run([&drained](absl::Time) { drained = true; }).ok());
  EXPECT_TRUE(drained);
}

}  // namespace
}  // namespace conclave
