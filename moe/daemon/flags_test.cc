#include "moe/daemon/flags.h"

#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class FlagsTest : public ::testing::Test {
 protected:
  FlagsTest() : flags_("router_service", "The attention service.") {
    flags_.Add("model", &model_, "the model's directory");
    flags_.Add("threads", &threads_, "compute threads");
    flags_.Add("batch-tokens", &batch_tokens_, "rows of a step");
    flags_.Add("temperature", &temperature_, "of sampling");
    flags_.Add("ignore-eos", &ignore_eos_, "go on past the end");
    flags_.Add("shard", &shards_, "address of a shard");
    flags_.Add("drain-timeout", &drain_timeout_, "time to finish");
    flags_.AddBytes("kv-memory", &kv_memory_, "memory of the KV cache");
  }

  absl::StatusOr<bool> Parse(std::vector<std::string> arguments) {
    std::vector<const char*> argv = {"program"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    const auto environment = [this](const char* name) -> const char* {
      const auto found = environment_.find(name);
      return found == environment_.end() ? nullptr : found->second.c_str();
    };
    return flags_.Parse(static_cast<int>(argv.size()), argv.data(), environment);
  }

  // The message with which the arguments are refused; empty where they are accepted.
  std::string Refusal(std::vector<std::string> arguments) {
    const auto parsed = Parse(std::move(arguments));
    if (parsed.ok()) return "";
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(parsed.status().message());
  }

  std::string WriteFile(const std::string& text) {
    const std::string path = absl::StrCat(TestFolder(), "/flags.yaml");
    std::ofstream(path) << text;
    return path;
  }

  std::string model_ = "none";
  int threads_ = 2;
  int64_t batch_tokens_ = 512;
  double temperature_ = 0;
  bool ignore_eos_ = false;
  std::vector<std::string> shards_;
  absl::Duration drain_timeout_ = absl::Seconds(20);
  int64_t kv_memory_ = int64_t{1} << 30;
  std::map<std::string, std::string> environment_;
  Flags flags_;
};

TEST_F(FlagsTest, DefaultsStayWhereNothingIsGiven) {
  ASSERT_TRUE(*Parse({}));
  EXPECT_EQ(model_, "none");
  EXPECT_EQ(threads_, 2);
  EXPECT_THAT(shards_, IsEmpty());
}

TEST_F(FlagsTest, TheCommandLineSetsEveryType) {
  ASSERT_TRUE(
      *Parse({"--model", "/m", "--threads=-3", "--batch-tokens", "9000000000", "--temperature", "0.5", "--ignore-eos",
              "--shard", "a:1", "--shard=b:2", "--drain-timeout", "1m", "--kv-memory", "2GiB"}));
  EXPECT_EQ(model_, "/m");
  EXPECT_EQ(threads_, -3);
  EXPECT_EQ(batch_tokens_, 9000000000);
  EXPECT_EQ(temperature_, 0.5);
  EXPECT_TRUE(ignore_eos_);
  EXPECT_THAT(shards_, ElementsAre("a:1", "b:2"));
  EXPECT_EQ(drain_timeout_, absl::Minutes(1));
  EXPECT_EQ(kv_memory_, int64_t{2} << 30);
}

TEST_F(FlagsTest, TheLastOccurrenceWins) {
  ASSERT_TRUE(
      *Parse({"--threads", "4", "--ignore-eos", "--threads=8", "--ignore-eos=false", "--model=", "--model", ""}));
  EXPECT_EQ(threads_, 8);
  EXPECT_FALSE(ignore_eos_);
  EXPECT_EQ(model_, "");
}

TEST_F(FlagsTest, FlagWinsOverEnvironmentOverFileOverDefault) {
  const std::string path =
      WriteFile("model: file\nthreads: 10\nbatch-tokens: 10\nshard: [f:1, f:2]\nignore-eos: true\n");
  environment_ = {{"CONCLAVE_CONFIG", path},
                  {"CONCLAVE_MODEL", "environment"},
                  {"CONCLAVE_THREADS", "20"},
                  {"CONCLAVE_SHARD", "e:1, e:2,"},
                  {"CONCLAVE_TEMPERATURE", ""}};
  ASSERT_TRUE(*Parse({"--model", "flag"}));
  EXPECT_EQ(model_, "flag");
  EXPECT_EQ(threads_, 20);
  EXPECT_EQ(batch_tokens_, 10);
  EXPECT_TRUE(ignore_eos_);
  EXPECT_THAT(shards_, ElementsAre("e:1", "e:2"));
  EXPECT_EQ(temperature_, 0);
  ASSERT_TRUE(*Parse({"--shard", "c:1"}));
  EXPECT_THAT(shards_, ElementsAre("c:1"));
}

TEST_F(FlagsTest, TheConfigFlagWinsOverItsVariable) {
  environment_ = {{"CONCLAVE_CONFIG", "/nowhere.yaml"}};
  ASSERT_TRUE(*Parse({"--config", WriteFile("threads: 5\n")}));
  EXPECT_EQ(threads_, 5);
  EXPECT_THAT(Refusal({}), HasSubstr("/nowhere.yaml"));
}

TEST_F(FlagsTest, AnUnknownKeyNamesFileLineAndNearestName) {
  const std::string path = WriteFile("model: /m\n\nkv_memory: 1GiB\n");
  EXPECT_EQ(Refusal({"--config", path}), path + ":3: unknown key 'kv_memory'; did you mean kv-memory?");
  EXPECT_THAT(Refusal({"--config", WriteFile("config: other.yaml\n")}), HasSubstr("unknown key 'config'"));
}

TEST_F(FlagsTest, AWrongTypeNamesKeyAndPlace) {
  const std::string path = WriteFile("model: /m\nthreads: many\n");
  EXPECT_EQ(Refusal({"--config", path}), path + ":2: threads: expected an integer, got 'many'");
  // An error in a value that another source overrides is an error all the same.
  EXPECT_EQ(Refusal({"--config", path, "--threads", "3"}), path + ":2: threads: expected an integer, got 'many'");
  EXPECT_THAT(Refusal({"--config", WriteFile("threads: [1, 2]\n")}), HasSubstr(":1: threads: expected one value"));
  environment_ = {{"CONCLAVE_IGNORE_EOS", "perhaps"}};
  EXPECT_EQ(Refusal({}), "CONCLAVE_IGNORE_EOS: expected true or false, got 'perhaps'");
  environment_.clear();
  EXPECT_EQ(Refusal({"--threads", "3.5"}), "--threads: expected an integer, got '3.5'");
  EXPECT_EQ(Refusal({"--ignore-eos=7"}), "--ignore-eos: expected true or false, got '7'");
}

TEST_F(FlagsTest, UsageErrorsNameTheArgument) {
  EXPECT_EQ(Refusal({"--modle", "/m"}), "unknown flag --modle; did you mean --model?");
  EXPECT_EQ(Refusal({"--kv_memory=3"}), "unknown flag --kv_memory=3; did you mean --kv-memory?");
  EXPECT_THAT(Refusal({"--nothing-like-it"}), Not(HasSubstr("did you mean")));
  EXPECT_EQ(Refusal({"--model"}), "flag --model needs a value");
  EXPECT_EQ(Refusal({"--model", "--threads", "4"}), "flag --model needs a value");
  EXPECT_EQ(Refusal({"stray"}), "unexpected argument 'stray'");
  EXPECT_EQ(Refusal({"--shard", "a", "b"}), "unexpected argument 'b'");
  EXPECT_EQ(Refusal({"--ignore-eos="}), "unexpected argument ''");
  EXPECT_EQ(Refusal({"--modle="}), "unknown flag --modle; did you mean --model?");
  EXPECT_NE(Refusal({"-x"}), "");
  EXPECT_NE(Refusal({"-"}), "");
}

TEST_F(FlagsTest, ValuesMayLookLikeFlagsAndHoldAnything) {
  ASSERT_TRUE(*Parse({"--model", "-m", "--shard", "[a, b]", "--shard", "x=y", "--shard=--threads"}));
  EXPECT_EQ(model_, "-m");
  EXPECT_THAT(shards_, ElementsAre("[a, b]", "x=y", "--threads"));
}

TEST_F(FlagsTest, ArgumentsWithoutANameAreRefused) {
  EXPECT_EQ(Refusal({"/a", "/b"}), "unexpected argument '/a'");
}

TEST_F(FlagsTest, HelpAndVersionAreAnsweredWhateverElseIsWrong) {
  testing::internal::CaptureStdout();
  EXPECT_FALSE(*Parse({"--no-such-flag", "--help"}));
  const std::string help = testing::internal::GetCapturedStdout();
  EXPECT_THAT(help, HasSubstr("Usage: router_service"));
  EXPECT_THAT(
      help,
      HasSubstr("--kv-memory SIZE\n      memory of the KV cache\n      default 1GiB; environment CONCLAVE_KV_MEMORY"));
  EXPECT_THAT(help, HasSubstr("CONCLAVE_CONFIG"));
  testing::internal::CaptureStdout();
  EXPECT_FALSE(*Parse({"--version"}));
  EXPECT_THAT(testing::internal::GetCapturedStdout(),
              testing::MatchesRegex("router_service [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST_F(FlagsTest, ListsEveryFlagWithItsTwin) {
  const std::vector<FlagInfo> list = flags_.List();
  ASSERT_EQ(list.size(), 9u);
  EXPECT_EQ(list[0].name, "config");
  EXPECT_EQ(list[8].environment, "CONCLAVE_KV_MEMORY");
  EXPECT_TRUE(list[6].is_list);
}

TEST(ExitWith, PrintsOneLineAndReturnsTheCode) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(ExitWith("program", absl::OkStatus(), 2), 0);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  EXPECT_EQ(ExitWith("program", absl::InvalidArgumentError("a\nb"), 2), 2);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "program: a b\n");
}

}  // namespace
}  // namespace conclave
