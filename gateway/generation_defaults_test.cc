#include "gateway/generation_defaults.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(GenerationDefaults, ReadsWhatSamplesAndIgnoresTheRest) {
  const auto defaults = ParseGenerationDefaults(
      R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 50, "min_p": 0.05,
          "repetition_penalty": 1.1, "max_new_tokens": 512, "eos_token_id": [1, 2], "transformers_version": "4"})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->sampling.temperature(), 0.6f);
  EXPECT_EQ(defaults->sampling.top_p(), 0.95f);
  EXPECT_EQ(defaults->sampling.top_k(), 50);
  EXPECT_EQ(defaults->sampling.min_p(), 0.05f);
  EXPECT_EQ(defaults->sampling.repetition_penalty(), 1.1f);
  EXPECT_EQ(defaults->max_tokens, 512);
}

TEST(GenerationDefaults, WithoutSamplingTheModelIsGreedy) {
  const auto defaults = ParseGenerationDefaults(R"({"do_sample": false, "temperature": 0.6, "top_k": -1})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_FALSE(defaults->sampling.has_temperature());
  EXPECT_FALSE(defaults->sampling.has_top_k());
  EXPECT_FALSE(defaults->max_tokens.has_value());
}

TEST(GenerationDefaults, WhatIsOutOfRangeIsNamed) {
  for (const char* name : {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens"}) {
    for (const char* value : {"-7", "1e30", "\"x\"", "[]"}) {
      const auto defaults = ParseGenerationDefaults(std::string("{\"") + name + "\": " + value + "}");
      EXPECT_THAT(std::string(defaults.status().message()), HasSubstr(std::string("generation_config.json: ") + name));
    }
    EXPECT_TRUE(ParseGenerationDefaults(std::string("{\"") + name + "\": null}").ok()) << name;
  }
  EXPECT_FALSE(ParseGenerationDefaults("[1]").ok());
  EXPECT_FALSE(ParseGenerationDefaults("{").ok());
}

TEST(GenerationDefaults, ARequestsOwnValuesWinZeroIncluded) {
  v1::SamplingOptions defaults, sampling;
  defaults.set_temperature(0.6f);
  defaults.set_top_p(0.95f);
  sampling.set_temperature(0);
  (*sampling.mutable_logit_bias())[3] = 1;
  ApplyDefaults(defaults, sampling);
  EXPECT_EQ(sampling.temperature(), 0);
  EXPECT_EQ(sampling.top_p(), 0.95f);
  EXPECT_EQ(sampling.logit_bias().at(3), 1);
}

}  // namespace
}  // namespace conclave
