#include "cli/sampling_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "cli/command.h"
#include "moe/daemon/flag_value.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SamplingFlagsTest, WhatIsNotGivenIsLeftToTheModel) {
  SamplingFlags flags;
  v1::GenerateRequest request;
  flags.ApplyTo(request);
  EXPECT_EQ(request.ByteSizeLong(), 0u) << request.ShortDebugString();
}

TEST(SamplingFlagsTest, EachSettingReachesItsField) {
  SamplingFlags flags;
  for (const auto& [name, text] : std::map<std::string, std::string>{{"temperature", "0.5"},
                                                                     {"top-p", "0.25"},
                                                                     {"top-k", "7"},
                                                                     {"min-p", "0.125"},
                                                                     {"repetition-penalty", "1.5"},
                                                                     {"presence-penalty", "-1"},
                                                                     {"frequency-penalty", "2"},
                                                                     {"seed", "18446744073709551615"},
                                                                     {"max-tokens", "9"}}) {
    EXPECT_TRUE(flags.Set(name, text).ok()) << name;
  }
  v1::GenerateRequest request;
  flags.ApplyTo(request);
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().top_p(), 0.25f);
  EXPECT_EQ(request.sampling().top_k(), 7);
  EXPECT_EQ(request.sampling().min_p(), 0.125f);
  EXPECT_EQ(request.sampling().repetition_penalty(), 1.5f);
  EXPECT_EQ(request.sampling().presence_penalty(), -1.0f);
  EXPECT_EQ(request.sampling().frequency_penalty(), 2.0f);
  EXPECT_EQ(request.sampling().seed(), 18446744073709551615u);
  EXPECT_EQ(request.max_tokens(), 9);
}

TEST(SamplingFlagsTest, ASettingThatIsTakenBackIsTheModelsAgain) {
  SamplingFlags flags;
  ASSERT_TRUE(flags.Set("temperature", "0").ok());
  ASSERT_TRUE(flags.Set("seed", "3").ok());
  EXPECT_THAT(flags.Describe(), ElementsAre("temperature 0", "seed 3"));
  ASSERT_TRUE(flags.Set("temperature", "default").ok());
  EXPECT_THAT(flags.Describe(), ElementsAre("seed 3"));
}

TEST(SamplingFlagsTest, RefusalsNameTheSettingAndWhatItTakes) {
  SamplingFlags flags;
  EXPECT_THAT(std::string(flags.Set("temperature", "-1").message()), HasSubstr("temperature takes a number from 0"));
  EXPECT_THAT(std::string(flags.Set("top-p", "nan").message()), HasSubstr("top-p takes a number"));
  EXPECT_THAT(std::string(flags.Set("top-k", "1.5").message()), HasSubstr("top-k takes a whole number"));
  EXPECT_THAT(std::string(flags.Set("max-tokens", "0").message()), HasSubstr("max-tokens takes a whole number"));
  EXPECT_THAT(std::string(flags.Set("heat", "1").message()), HasSubstr("there are temperature, top-p"));
  EXPECT_TRUE(flags.Describe().empty());
}

TEST(SamplingFlagsTest, AWrongFlagIsAUsageError) {
  SamplingFlags flags;
  CommandFlags declared;
  flags.Declare(declared);
  for (const CommandFlag& flag : declared.flags()) {
    if (flag.name == "top-p") {
      ASSERT_TRUE(SetFlag(flag.target, {"2"}).ok());
    }
  }
  const absl::Status status = flags.Take();
  EXPECT_TRUE(IsUsageError(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--top-p takes a number"));
}

}  // namespace
}  // namespace conclave
