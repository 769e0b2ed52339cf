#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"
#include "moe/daemon/flags.h"
#include "router_service/router_service.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// The message with which these flags, after a good --model, are refused; empty where they are accepted.
std::string Refusal(std::vector<const char*> arguments) {
  RouterServiceOptions options;
  Flags flags("router_service", "Test.");
  options.AddTo(flags);
  arguments.insert(arguments.begin(), {"router_service", "--model=/m"});
  const auto parsed = flags.Parse(static_cast<int>(arguments.size()), arguments.data(),
                                  [](const char*) -> const char* { return nullptr; });
  const absl::Status status = parsed.ok() ? options.Validate() : parsed.status();
  return std::string(status.message());
}

std::string ShardsFile(const std::string& text) {
  const std::string path = absl::StrCat(TestFolder(), "/shards.txt");
  std::ofstream(path) << text;
  return "--shards-file=" + path;
}

TEST(RouterServiceOptions, AcceptsWhatItShould) {
  EXPECT_EQ(Refusal({}), "");
  EXPECT_EQ(Refusal({"--shard=127.0.0.1:1", "--shard=[::1]:2", "--compute=bf16", "--kv-memory=2GiB", "--threads=4",
                     "--max-batch-tokens=64", "--prefix-cache=false", "--prefill-stretch=0", "--allow-mixed-numerics",
                     "--shard-wait=10s", "--row-format=fp8", "--kv-format=fp8"}),
            "");
  EXPECT_EQ(Refusal({ShardsFile("# shards\n a:1 \n\nb:2 # second\n").c_str()}), "");
}

TEST(RouterServiceOptions, NamesTheFlagThatIsWrong) {
  EXPECT_THAT(Refusal({"--model="}), StartsWith("--model: missing"));
  EXPECT_THAT(Refusal({"--compute=fp8"}), HasSubstr("needs a GPU"));
  EXPECT_THAT(Refusal({"--compute=int4"}), StartsWith("--compute: expected auto, f32 or bf16"));
  EXPECT_THAT(Refusal({"--row-format=fp4"}), StartsWith("--row-format: expected compute or fp8"));
  EXPECT_THAT(Refusal({"--kv-format=int4"}), StartsWith("--kv-format: expected compute or fp8"));
  EXPECT_THAT(Refusal({"--block-size=48"}), StartsWith("--block-size is 48; it must be 16, 32 or 64"));
  EXPECT_THAT(Refusal({"--threads=-1"}), StartsWith("--threads"));
  EXPECT_THAT(Refusal({"--cpus=1023"}), StartsWith("--cpus: CPU 1023 is not there"));
  EXPECT_THAT(Refusal({"--shard=nowhere"}), StartsWith("--shard: expected host:port"));
  EXPECT_THAT(Refusal({"--shard=a:1", "--shard=a:1"}), HasSubstr("twice"));
  EXPECT_THAT(Refusal({"--kv-memory=0"}), StartsWith("--kv-memory is 0"));
  EXPECT_THAT(Refusal({"--max-batch-tokens=0"}), StartsWith("--max-batch-tokens is 0"));
  EXPECT_THAT(Refusal({"--prefill-stretch=1"}), StartsWith("--prefill-stretch is 1"));
  EXPECT_THAT(Refusal({"--max-queued=-1"}), StartsWith("--max-queued is -1"));
  EXPECT_THAT(Refusal({"--context-max=-1"}), StartsWith("--context-max is -1"));
  EXPECT_THAT(Refusal({"--kv_memory=1"}), HasSubstr("did you mean --kv-memory?"));
}

TEST(RouterServiceOptions, NamesTheShardsFileThatIsWrong) {
  EXPECT_THAT(Refusal({"--shards-file=/nowhere"}), HasSubstr("/nowhere"));
  EXPECT_THAT(Refusal({ShardsFile("# none\n").c_str()}), HasSubstr("names no shard"));
  EXPECT_THAT(Refusal({ShardsFile("a:1\nb\n").c_str()}), HasSubstr("shards.txt: expected host:port, got 'b'"));
  EXPECT_THAT(Refusal({ShardsFile("a:1\n").c_str(), "--shard=b:1"}), HasSubstr("give one of them"));
}

}  // namespace
}  // namespace conclave
