const { checkFilterValue } = require('../rules');

// What a customer's Gateway lists: the tests write it as it is.
module.exports = { getInitialDataSet: () => [], hasEntries: () => true, checkFilterValue };
